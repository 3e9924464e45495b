package metadata

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"container-registry-proxy/internal/oci"
)

const reg = oci.Registry("registry.test")

var (
	digest = oci.FromBytes([]byte("a"))
	other  = oci.FromBytes([]byte("b"))
	now    = time.Unix(1e9, 0).UTC()
	key    = TagKey{reg, "library/app", "1", "application/vnd.oci.image.index.v1+json"}
	record = TagRecord{oci.Descriptor{MediaType: "application/json", Digest: digest, Size: 7}, now}
)

// mapDB is a database in memory that counts its reads.
type mapDB struct {
	mu    sync.Mutex
	m     map[string][]byte // by bucket and key
	reads atomic.Int64
}

func newDB() *mapDB { return &mapDB{m: map[string][]byte{}} }

func (db *mapDB) Get(bucket, key string) ([]byte, bool) {
	db.reads.Add(1)
	db.mu.Lock()
	defer db.mu.Unlock()
	v, ok := db.m[bucket+"\x01"+key]
	return v, ok
}

func (db *mapDB) Put(bucket, key string, value []byte) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.m[bucket+"\x01"+key] = value
}

func (db *mapDB) Delete(bucket, key string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	delete(db.m, bucket+"\x01"+key)
}

func (db *mapDB) Scan(bucket, prefix string, visit func(key string, value []byte) bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for key, value := range db.m {
		if name, ok := strings.CutPrefix(key, bucket+"\x01"); ok && strings.HasPrefix(name, prefix) && !visit(name, value) {
			return
		}
	}
}

func (db *mapDB) Page(bucket, after string, limit int) (keys []string, values [][]byte) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(db.m)) {
		if name, ok := strings.CutPrefix(key, bucket+"\x01"); ok && name > after && len(keys) < limit {
			keys, values = append(keys, name), append(values, db.m[key])
		}
	}
	return keys, values
}

// facts is all that a test may know, in a form that can be compared.
func facts(m *Metadata) map[string]any {
	rec, known := m.Tag(key)
	open, answered := m.Open(reg, key.Repository)
	freeReg, freeRepo, free := m.Free(digest)
	return map[string]any{
		"tag": rec, "tag known": known, "open": open, "open known": answered, "type": m.MediaType(digest),
		"link": m.Link(reg, key.Repository, digest), "claim": m.Link(reg, "team/app", digest), "no link": m.Link(reg, key.Repository, other),
		"delivered": m.DeliveredBy(reg, digest), "delivered by another": m.DeliveredBy("other.test", digest),
		"free": fmt.Sprintln(freeReg, freeRepo, free),
	}
}

func TestWhatIsKnownOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	db := newDB()
	m := New(db)
	m.PutTag(key, record, m.Pushes())
	m.PutOpen(reg, key.Repository, OpenAnswer{Open: true, At: now, Witness: "/v2/library/app/manifests/1"})
	m.PutMediaType(digest, "application/json")
	m.PutProof(reg, key.Repository, digest, true)
	m.PutClaim(reg, "team/app", digest)
	want := map[string]any{
		"tag": record, "tag known": true, "open": OpenAnswer{Open: true, At: now, Witness: "/v2/library/app/manifests/1"}, "open known": true,
		"type": "application/json", "link": Proven, "claim": Claimed, "no link": Unlinked,
		"delivered": true, "delivered by another": false, "free": "registry.test library/app true\n",
	}
	if diff := cmp.Diff(want, facts(m)); diff != "" {
		t.Errorf("in this process (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, facts(New(db))); diff != "" {
		t.Errorf("in the next one (-want +got):\n%s", diff)
	}
}

func TestARecordInUseCostsNoRead(t *testing.T) {
	t.Parallel()
	db := newDB()
	m := New(db)
	m.PutTag(key, record, 0)
	m.PutOpen(reg, key.Repository, OpenAnswer{Open: true, At: now})
	m.PutMediaType(digest, "application/json")
	m.PutProof(reg, key.Repository, digest, true)
	m = New(db) // as after a restart
	look := func() {
		m.Tag(key)
		m.Open(reg, key.Repository)
		m.MediaType(digest)
		m.Link(reg, key.Repository, digest)
	}
	look()
	reads := db.reads.Load()
	for range 100 {
		look()
	}
	if more := db.reads.Load() - reads; more != 0 || reads == 0 {
		t.Errorf("%d reads at first and %d more for records in use", reads, more)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	m := New(newDB())
	for i := range inMemory + inMemory/4 {
		m.PutClaim(reg, fmt.Sprint("library/", i), digest)
	}
	m.links.memory.CleanUp()
	if n := m.links.memory.EstimatedSize(); n > inMemory+inMemory/20 {
		t.Errorf("%d records in memory, want %d", n, inMemory)
	}
	if link := m.Link(reg, "library/0", digest); link != Claimed {
		t.Errorf("a record that memory had no room for is %v", link)
	}
}

func TestAPushDropsTheTagAndNoOther(t *testing.T) {
	t.Parallel()
	db := newDB()
	m := New(db)
	keys := map[string]TagKey{
		"another accept":     {reg, "library/app", "1", ""},
		"another tag":        {reg, "library/app", "1.1", ""},
		"another repository": {reg, "library/app1", "1", ""},
		"a longer name":      {reg, "library/app/1", "1", ""},
		"another registry":   {reg + ":5000", "library/app", "1", ""},
	}
	m.PutTag(key, record, 0)
	for _, k := range keys {
		m.PutTag(k, record, 0)
	}
	m = New(db) // half of it in memory, half not
	m.Tag(key)
	m.ForgetTag(reg, "library/app", "1")
	for _, view := range []*Metadata{m, New(db)} {
		if _, known := view.Tag(key); known {
			t.Error("the tag that was pushed is still known")
		}
		for name, k := range keys {
			if _, known := view.Tag(k); known == (name == "another accept") {
				t.Errorf("%s: known %t", name, known)
			}
		}
	}
}

func TestAnAnswerOfBeforeAPushIsNotKept(t *testing.T) {
	t.Parallel()
	m := New(newDB())
	asked := m.Pushes()
	m.ForgetTag(reg, "library/app", "1") // while the registry's answer was on its way
	m.PutTag(key, record, asked)
	if _, known := m.Tag(key); known {
		t.Error("what was asked before the push is known after it")
	}
	m.PutTag(key, record, m.Pushes())
	if _, known := m.Tag(key); !known {
		t.Error("what was asked after the push is not known")
	}
}

func TestAForgottenDigestTakesItsTagsAlong(t *testing.T) {
	t.Parallel()
	m := New(newDB())
	m.PutTag(key, record, 0)
	kept := TagKey{reg, "library/app", "2", ""}
	m.PutTag(kept, TagRecord{oci.Descriptor{Digest: other}, now}, 0)
	m.PutProof(reg, "library/app", digest, true)
	m.ForgetDigest(reg, "library/app", digest)
	if _, known := m.Tag(key); known || m.Link(reg, "library/app", digest) != Unlinked {
		t.Error("a deleted digest still has a tag or a link")
	}
	if _, known := m.Tag(kept); !known {
		t.Error("the tag of another digest is gone")
	}
}

func TestMemoryThatOutlivesTheDatabaseIsForgottenToo(t *testing.T) {
	t.Parallel()
	db := newDB()
	m := New(db)
	m.PutTag(key, record, 0)
	clear(db.m) // damaged and begun anew
	m.ForgetTag(reg, "library/app", "1")
	if _, known := m.Tag(key); known {
		t.Error("a push did not reach a record that is in memory alone")
	}
}

// Two answers at once must not turn what was delivered into what was only said.
func TestAProofIsNeverWeakened(t *testing.T) {
	t.Parallel()
	for i := range 200 {
		db := newDB()
		m := New(db)
		repo := fmt.Sprint("library/", i)
		var wg sync.WaitGroup
		wg.Go(func() { m.PutProof(reg, repo, digest, false) })
		for range 4 {
			wg.Go(func() { m.PutClaim(reg, repo, digest) })
		}
		wg.Wait()
		if m.Link(reg, repo, digest) != Proven || New(db).Link(reg, repo, digest) != Proven {
			t.Fatal("a claim has overwritten a proof")
		}
	}
}

func TestMemoryAndDatabaseAgreeUnderLoad(t *testing.T) {
	t.Parallel()
	db := newDB()
	m := New(db)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 500 {
				k := TagKey{reg, "library/app", fmt.Sprint(i % 5), ""}
				switch (i + worker) % 3 {
				case 0:
					m.PutTag(k, TagRecord{oci.Descriptor{Digest: digest, Size: int64(worker*1000 + i)}, now}, m.Pushes())
				case 1:
					m.ForgetTag(k.Registry, k.Repository, k.Tag)
				default:
					m.Tag(k)
				}
			}
		})
	}
	wg.Wait()
	for i := range 5 {
		k := TagKey{reg, "library/app", fmt.Sprint(i), ""}
		rec, known := m.Tag(k)
		stored, there := New(db).Tag(k)
		if known != there || rec.Descriptor != stored.Descriptor {
			t.Errorf("tag %d: %+v (%t) in memory, %+v (%t) in the database", i, rec, known, stored, there)
		}
	}
}

func TestAMediaTypeStays(t *testing.T) {
	t.Parallel()
	m := New(newDB())
	m.PutMediaType(digest, "application/first")
	if got := m.PutMediaType(digest, "application/second"); got != "application/first" || m.MediaType(digest) != got {
		t.Errorf("the type is %q, want the first", got)
	}
}

func TestDamagedRecordsAreNone(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"empty": "", "no JSON": "{", "no digest": `{"descriptor":{"digest":"sha256:../../etc/passwd"}}`, "a list": "[]",
	} {
		db := newDB()
		for _, bucket := range []string{bucketTags, bucketOpen, bucketLinks, bucketFree} {
			for _, k := range []string{key.String(), join(string(reg), key.Repository), join(string(reg), key.Repository, string(digest)), string(digest)} {
				db.Put(bucket, k, []byte(value))
			}
		}
		m := New(db)
		_, tag := m.Tag(key)
		open, _ := m.Open(reg, key.Repository)
		_, _, free := m.Free(digest)
		if tag || open.Open || free || m.Link(reg, key.Repository, digest) != Unlinked {
			t.Errorf("%s: taken for a record", name)
		}
	}
	db := newDB()
	db.Put(bucketLinks, join(string(reg), key.Repository, string(digest)), []byte{3})
	if New(db).Link(reg, key.Repository, digest) != Unlinked {
		t.Error("an unknown kind of link counts")
	}
}

func TestAge(t *testing.T) {
	t.Parallel()
	if age := record.Age(now.Add(time.Minute)); age != time.Minute {
		t.Errorf("age %v, want a minute", age)
	}
	// A clock that was set back must not make a record fresh for years.
	if age := record.Age(now.Add(-time.Hour)); age != math.MaxInt64 {
		t.Errorf("a record from the future is %v old, want infinitely", age)
	}
}
