// Package metadata remembers what registries have said: which descriptor a tag had and when, which repository holds which
// digest, which repositories are open to everyone, whose logins were taken where, and the media type of a manifest. Its
// invariant: nothing here is needed for correctness of bytes, and losing all of it costs questions to registries, never
// content. The methods of [Metadata] are safe for concurrent use and do no I/O but a read of the embedded database, and
// not even that for a record in use.
package metadata

import (
	"strings"
	"sync"
	"time"

	"container-registry-proxy/internal/oci"
)

// DB is what metadata needs of its database: reads see writes at once, writes become durable soon.
type DB interface {
	Get(bucket, key string) ([]byte, bool)
	Put(bucket, key string, value []byte)
	Delete(bucket, key string)
	Scan(bucket, prefix string, visit func(key string, value []byte) bool)
	// Page returns the records after a key, in the order of keys: fewer than limit if there are no more. What was written
	// a moment ago may not be among them.
	Page(bucket, after string, limit int) (keys []string, values [][]byte)
}

// The buckets. Keys are fields joined by NUL, which no field but the last may hold.
const (
	bucketTags       = "tags"       // registry, repository, tag, accept → TagRecord as JSON
	bucketLinks      = "links"      // registry, repository, digest → one byte, Link; without a repository: any of the registry's
	bucketFree       = "free"       // digest → registry, repository
	bucketOpen       = "open"       // registry, repository → OpenAnswer as JSON
	bucketTypes      = "mediatypes" // digest → media type
	bucketGrants     = "grants"     // registry, repository, fingerprint of a login → Acceptance as JSON
	bucketReached    = "reached"    // registry, repository → OpenAnswer as JSON, of the operator's credentials
	bucketChallenges = "challenges" // registry → WWW-Authenticate headers as JSON
)

// Metadata is the typed view of the database.
type Metadata struct {
	tags       *table[TagKey, TagRecord]
	links      *table[linkKey, Link]
	free       *table[oci.Digest, place]
	open       *table[place, OpenAnswer]
	types      *table[oci.Digest, string]
	grants     *table[grantKey, Acceptance]
	reached    *table[place, OpenAnswer]
	challenges *table[place, []string]

	mu     sync.RWMutex // guards pushes, and holds a push back while a record of a tag is written
	pushes uint64
}

// New returns a view of db.
func New(db DB) *Metadata {
	return &Metadata{
		tags:       newTable(db, bucketTags, TagKey.String, parseTagKey, toJSON[TagRecord], decodeTag),
		links:      newTable(db, bucketLinks, linkKey.String, parseLinkKey, Link.encode, decodeLink),
		free:       newTable(db, bucketFree, oci.Digest.String, parseDigest, place.encode, decodePlace),
		open:       newTable(db, bucketOpen, place.String, parsePlace, toJSON[OpenAnswer], fromJSON[OpenAnswer]),
		types:      newTable(db, bucketTypes, oci.Digest.String, parseDigest, encodeType, decodeType),
		grants:     newTable(db, bucketGrants, grantKey.String, parseGrantKey, toJSON[Acceptance], fromJSON[Acceptance]),
		reached:    newTable(db, bucketReached, place.String, parsePlace, toJSON[OpenAnswer], fromJSON[OpenAnswer]),
		challenges: newTable(db, bucketChallenges, place.String, parsePlace, toJSON[[]string], fromJSON[[]string]),
	}
}

// TagKey is what a tag record is kept under. The same tag may mean different manifests to clients that accept
// different media types.
type TagKey struct {
	Registry   oci.Registry
	Repository string
	Tag        string
	Accept     string // in normal form
}

// AcceptImported stands in the key of a record that no client has asked for: it was imported.
const AcceptImported = "imported"

// String is the key in the database.
func (k TagKey) String() string {
	return join(string(k.Registry), k.Repository, k.Tag, k.Accept)
}

// parseTagKey is the reverse of String.
func parseTagKey(s string) TagKey {
	f := append(strings.SplitN(s, "\x00", 4), "", "", "")
	return TagKey{oci.Registry(f[0]), f[1], f[2], f[3]}
}

// TagRecord says what a tag pointed to when it was last validated.
type TagRecord struct {
	Descriptor  oci.Descriptor `json:"descriptor"`
	ValidatedAt time.Time      `json:"validatedAt"`
}

func decodeTag(b []byte) (TagRecord, bool) {
	rec, ok := fromJSON[TagRecord](b)
	if _, err := oci.ParseDigest(string(rec.Descriptor.Digest)); err != nil {
		return TagRecord{}, false
	}
	return rec, ok
}

// Age is the time since validation. A record from the future, which a clock that was set back leaves behind, counts as
// infinitely old.
func (r TagRecord) Age(now time.Time) time.Duration {
	age := now.Sub(r.ValidatedAt)
	if age < 0 {
		return 1<<63 - 1
	}
	return age
}

// Tag returns the record of a tag, if there is one.
func (m *Metadata) Tag(k TagKey) (TagRecord, bool) { return m.tags.get(k) }

// Tags returns the records of a tag, whatever was accepted.
func (m *Metadata) Tags(reg oci.Registry, repository, tag string) (records []TagRecord) {
	m.tags.db.Scan(bucketTags, join(string(reg), repository, tag, ""), func(_ string, value []byte) bool {
		if rec, ok := decodeTag(value); ok {
			records = append(records, rec)
		}
		return true
	})
	return records
}

// Pushes counts what has been pushed and deleted: an answer that was asked for under an earlier count may be of before.
func (m *Metadata) Pushes() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.pushes
}

// PutTag records what a tag points to, unless something was pushed since the count of [Metadata.Pushes] was taken.
func (m *Metadata) PutTag(k TagKey, rec TagRecord, pushes uint64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.pushes == pushes {
		set(m.tags, k, rec)
	}
}

// ForgetTag drops the records of a tag, whatever was accepted, and what is being asked about any tag at this moment.
func (m *Metadata) ForgetTag(reg oci.Registry, repository, tag string) {
	m.pushed()
	for _, k := range m.tagsOf(reg, repository, tag) {
		m.tags.remove(k)
	}
}

// ForgetDigest drops the records of the repository's tags that point to the digest, and that the repository holds it.
func (m *Metadata) ForgetDigest(reg oci.Registry, repository string, d oci.Digest) {
	m.pushed()
	for _, k := range m.tagsOf(reg, repository, "") {
		if rec, _ := m.Tag(k); rec.Descriptor.Digest == d {
			m.tags.remove(k)
		}
	}
	m.links.remove(linkKey{place{reg, repository}, d})
}

// Doubt makes the records of a tag, or of all tags of the repository if it is empty, as old as can be.
func (m *Metadata) Doubt(reg oci.Registry, repository, tag string) {
	m.pushed()
	for _, k := range m.tagsOf(reg, repository, tag) {
		m.tags.update(k, func(rec TagRecord, known bool) (TagRecord, bool) {
			rec.ValidatedAt = time.Time{}
			return rec, known
		})
	}
}

func (m *Metadata) pushed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pushes++
}

// tagsOf are the keys of a tag's records, or of all tags' if it is empty.
func (m *Metadata) tagsOf(reg oci.Registry, repository, tag string) []TagKey {
	prefix := join(string(reg), repository, "")
	if tag != "" {
		prefix += join(tag, "")
	}
	return m.tags.keys(prefix)
}

// OpenAnswer is what a registry last said to nobody in particular about a repository.
type OpenAnswer struct {
	Open bool      `json:"open"`
	At   time.Time `json:"at"`
	// Witness is the path for which an open repository last said so.
	Witness string `json:"witness,omitempty"`
	// Missing says that a repository was not open because what was asked for is not there, or is hidden as if it were
	// not: that is soon asked again.
	Missing bool `json:"missing,omitempty"`
	// WasOpen says that the repository was open until what was asked for went missing.
	WasOpen bool `json:"wasOpen,omitempty"`
}

// Open returns the last answer, if there was one.
func (m *Metadata) Open(reg oci.Registry, repository string) (OpenAnswer, bool) {
	return m.open.get(place{reg, repository})
}

// PutOpen records an answer.
func (m *Metadata) PutOpen(reg oci.Registry, repository string, a OpenAnswer) {
	set(m.open, place{reg, repository}, a)
}

// MediaType returns the media type under which a manifest was delivered, or "".
func (m *Metadata) MediaType(d oci.Digest) string {
	mediaType, _ := m.types.get(d)
	return mediaType
}

// PutMediaType binds a media type to a manifest and returns the one it has: the first one stays, so that the same bytes
// always have the same type.
func (m *Metadata) PutMediaType(d oci.Digest, mediaType string) string {
	m.types.update(d, func(first string, known bool) (string, bool) {
		if known {
			mediaType = first
			return first, false
		}
		return mediaType, true
	})
	return mediaType
}

func encodeType(mediaType string) []byte { return []byte(mediaType) }

func decodeType(b []byte) (string, bool) { return string(b), len(b) > 0 }

// parseDigest is the reverse of a digest's String.
func parseDigest(s string) oci.Digest { return oci.Digest(s) }

func join(fields ...string) string { return strings.Join(fields, "\x00") }
