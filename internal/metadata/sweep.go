package metadata

import (
	"strings"
	"time"

	"container-registry-proxy/internal/oci"
)

// Sweep drops the records that nobody will use any more, and returns how many: of tags that nobody has asked for since,
// and whose manifest is not held; of what a repository holds and of media types, for digests that are not held; of
// whether a repository is open, asked before. To have dropped one too many costs a question to a registry.
func (m *Metadata) Sweep(held func(oci.Digest) bool, since time.Time) (dropped int) {
	for _, k := range m.tags.unused(parseTagKey, func(rec TagRecord) bool {
		return rec.ValidatedAt.Before(since) && !held(rec.Descriptor.Digest)
	}) {
		m.tags.remove(k)
		dropped++
	}
	for _, k := range m.links.unusedKeys(parseLinkKey, func(k linkKey) bool { return !held(k.digest) }) {
		m.links.remove(k)
		dropped++
	}
	parseDigest := func(s string) oci.Digest { return oci.Digest(s) }
	for _, d := range m.free.unusedKeys(parseDigest, func(d oci.Digest) bool { return !held(d) }) {
		m.free.remove(d)
		dropped++
	}
	for _, d := range m.types.unusedKeys(parseDigest, func(d oci.Digest) bool { return !held(d) }) {
		m.types.remove(d)
		dropped++
	}
	for _, p := range m.open.unused(parsePlace, func(a OpenAnswer) bool { return a.At.Before(since) }) {
		m.open.remove(p)
		dropped++
	}
	return dropped
}

// unused returns the keys of the records that gone reports, and of those that cannot be read.
func (t *table[K, V]) unused(parse func(string) K, gone func(V) bool) (keys []K) {
	t.db.Scan(t.bucket, "", func(key string, value []byte) bool {
		if v, ok := t.decode(value); !ok || gone(v) {
			keys = append(keys, parse(key))
		}
		return true
	})
	return keys
}

// unusedKeys returns the keys that gone reports.
func (t *table[K, V]) unusedKeys(parse func(string) K, gone func(K) bool) (keys []K) {
	t.db.Scan(t.bucket, "", func(key string, _ []byte) bool {
		if k := parse(key); gone(k) {
			keys = append(keys, k)
		}
		return true
	})
	return keys
}

// parseLinkKey and parsePlace are the reverse of String.
func parseLinkKey(s string) linkKey {
	f := append(strings.SplitN(s, "\x00", 3), "", "")
	return linkKey{place{oci.Registry(f[0]), f[1]}, oci.Digest(f[2])}
}

func parsePlace(s string) place {
	registry, repository, _ := strings.Cut(s, "\x00")
	return place{oci.Registry(registry), repository}
}
