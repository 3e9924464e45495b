// Package metadata remembers what registries have said: which descriptor a tag had and when, which repository holds
// which digest, which repositories are open to everyone, and the media type of a manifest. Its invariant: nothing here
// is needed for correctness of bytes, and losing all of it costs questions to registries, never content. The methods of
// [Metadata] are safe for concurrent use and do no I/O but a read of the embedded database.
package metadata

import (
	"encoding/json"
	"strings"
	"time"

	"container-registry-proxy/internal/oci"
)

// DB is what metadata needs of its database: reads see writes at once, writes become durable soon.
type DB interface {
	Get(bucket, key string) ([]byte, bool)
	Put(bucket, key string, value []byte)
	Delete(bucket, key string)
	Scan(bucket, prefix string, visit func(key string, value []byte) bool)
}

// The buckets. Keys are fields joined by NUL, which no field may hold.
const (
	bucketTags  = "tags"       // registry, repository, tag, accept → tagRecord as JSON
	bucketLinks = "links"      // registry, repository, digest → one byte, Link
	bucketOpen  = "open"       // registry, repository → openRecord as JSON
	bucketTypes = "mediatypes" // digest → media type
)

// Metadata is the typed view of the database.
type Metadata struct{ db DB }

// New returns a view of db.
func New(db DB) *Metadata { return &Metadata{db: db} }

// TagKey is what a tag record is kept under. The same tag may mean different manifests to clients that accept
// different media types.
type TagKey struct {
	Registry   oci.Registry
	Repository string
	Tag        string
	Accept     string // in normal form
}

// String is the key in the database.
func (k TagKey) String() string {
	return join(string(k.Registry), k.Repository, k.Tag, k.Accept)
}

// TagRecord says what a tag pointed to when it was last validated.
type TagRecord struct {
	Descriptor  oci.Descriptor `json:"descriptor"`
	ValidatedAt time.Time      `json:"validatedAt"`
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
func (m *Metadata) Tag(k TagKey) (TagRecord, bool) {
	var rec TagRecord
	value, ok := m.db.Get(bucketTags, k.String())
	if !ok || json.Unmarshal(value, &rec) != nil {
		return TagRecord{}, false
	}
	if _, err := oci.ParseDigest(string(rec.Descriptor.Digest)); err != nil {
		return TagRecord{}, false
	}
	return rec, true
}

// PutTag records what a tag points to.
func (m *Metadata) PutTag(k TagKey, rec TagRecord) { m.putJSON(bucketTags, k.String(), rec) }

// ForgetTag drops the records of a tag, whatever was accepted.
func (m *Metadata) ForgetTag(reg oci.Registry, repository, tag string) {
	var keys []string
	m.db.Scan(bucketTags, join(string(reg), repository, tag, ""), func(key string, _ []byte) bool {
		keys = append(keys, key)
		return true
	})
	for _, key := range keys {
		m.db.Delete(bucketTags, key)
	}
}

// Link says how sure we are that a repository holds a digest.
type Link byte

// A link is claimed when the registry only said so, proven when it delivered the bytes.
const (
	Unlinked Link = iota
	Claimed
	Proven
)

// Link returns how a repository and a digest are linked.
func (m *Metadata) Link(reg oci.Registry, repository string, d oci.Digest) Link {
	value, ok := m.db.Get(bucketLinks, join(string(reg), repository, string(d)))
	if !ok || len(value) != 1 || value[0] > byte(Proven) {
		return Unlinked
	}
	return Link(value[0])
}

// PutLink records a link. A proven link is never weakened.
func (m *Metadata) PutLink(reg oci.Registry, repository string, d oci.Digest, link Link) {
	if m.Link(reg, repository, d) < link {
		m.db.Put(bucketLinks, join(string(reg), repository, string(d)), []byte{byte(link)})
	}
}

// OpenAnswer is what a registry last said to nobody in particular about a repository.
type OpenAnswer struct {
	Open bool      `json:"open"`
	At   time.Time `json:"at"`
}

// Open returns the last answer, if there was one.
func (m *Metadata) Open(reg oci.Registry, repository string) (OpenAnswer, bool) {
	var a OpenAnswer
	value, ok := m.db.Get(bucketOpen, join(string(reg), repository))
	if !ok || json.Unmarshal(value, &a) != nil {
		return OpenAnswer{}, false
	}
	return a, true
}

// PutOpen records an answer.
func (m *Metadata) PutOpen(reg oci.Registry, repository string, a OpenAnswer) {
	m.putJSON(bucketOpen, join(string(reg), repository), a)
}

// MediaType returns the media type under which a manifest was delivered, or "".
func (m *Metadata) MediaType(d oci.Digest) string {
	value, _ := m.db.Get(bucketTypes, string(d))
	return string(value)
}

// PutMediaType binds a media type to a manifest. The first one stays: the same bytes always have the same type.
func (m *Metadata) PutMediaType(d oci.Digest, mediaType string) {
	if m.MediaType(d) == "" {
		m.db.Put(bucketTypes, string(d), []byte(mediaType))
	}
}

func (m *Metadata) putJSON(bucket, key string, value any) {
	b, err := json.Marshal(value)
	if err != nil {
		panic(err) // plain structs of strings, numbers and times always marshal
	}
	m.db.Put(bucket, key, b)
}

func join(fields ...string) string { return strings.Join(fields, "\x00") }
