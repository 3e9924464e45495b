package metadata

import (
	"strings"
	"time"

	"container-registry-proxy/internal/oci"
)

// Sweep drops the records that nobody will use any more, and returns how many: of tags that nobody has asked for since,
// and whose manifest is not held; of what a repository holds and of media types, for digests that are not held; of
// whether a repository may be had, asked before, unless something of it is held: that would be no one's while its
// registry cannot be asked. To have dropped one too many costs a question to a registry.
func (m *Metadata) Sweep(held func(oci.Digest) bool, since time.Time) (dropped int) {
	holding := map[place]bool{}
	old := func(p place, a OpenAnswer) bool { return a.At.Before(since) && !holding[p] }
	dropped += m.tags.sweep(func(_ TagKey, rec TagRecord) bool {
		return rec.ValidatedAt.Before(since) && !held(rec.Descriptor.Digest)
	})
	dropped += m.links.sweep(func(k linkKey, _ Link) bool {
		holds := held(k.digest)
		if holds {
			holding[k.place] = true
		}
		return !holds
	})
	dropped += m.free.sweep(func(d oci.Digest, _ place) bool { return !held(d) })
	dropped += m.types.sweep(func(d oci.Digest, _ string) bool { return !held(d) })
	dropped += m.open.sweep(old)
	dropped += m.reached.sweep(old)
	return dropped
}

// sweepAtOnce bounds what is read at one time: nobody can write meanwhile.
const sweepAtOnce = 1000

// sweep drops the records that gone reports, and those that cannot be read.
func (t *table[K, V]) sweep(gone func(K, V) bool) (dropped int) {
	for after := ""; ; {
		keys, values := t.db.Page(t.bucket, after, sweepAtOnce)
		for i, key := range keys {
			k := t.parse(key)
			if v, ok := t.decode(values[i]); !ok || gone(k, v) {
				t.remove(k)
				dropped++
			}
		}
		if len(keys) < sweepAtOnce {
			return dropped
		}
		after = keys[len(keys)-1]
	}
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
