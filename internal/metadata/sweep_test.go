package metadata

import (
	"fmt"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
)

// What is cached keeps its records, and so does what somebody has asked for of late. The rest goes.
func TestSweep(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	since := now.Add(-24 * time.Hour)
	m := New(newDB())
	held, gone := oci.FromBytes([]byte("held")), oci.FromBytes([]byte("gone"))
	key := func(tag string) TagKey {
		return TagKey{Registry: "quay.io", Repository: "a", Tag: tag, Accept: "*/*"}
	}
	put := func(tag string, d oci.Digest, at time.Time) {
		m.PutTag(key(tag), TagRecord{Descriptor: oci.Descriptor{Digest: d}, ValidatedAt: at}, m.Pushes())
	}
	put("old and held", held, since.Add(-time.Hour))
	put("old and gone", gone, since.Add(-time.Hour))
	put("new and gone", gone, now)
	for _, d := range []oci.Digest{held, gone} {
		m.PutMediaType(d, "application/vnd.oci.image.manifest.v1+json")
		m.PutProof("quay.io", "a", d, true)
	}
	m.PutOpen("quay.io", "a", OpenAnswer{Open: true, At: now})
	m.PutOpen("quay.io", "b", OpenAnswer{Open: true, At: since.Add(-time.Hour)})

	is := func(d oci.Digest) bool { return d == held }
	// A tag; two links, of the repository and of the registry; what is free; a media type; an answer.
	if n := m.Sweep(is, since); n != 6 {
		t.Errorf("%d records dropped, want 6", n)
	}
	for tag, want := range map[string]bool{"old and held": true, "old and gone": false, "new and gone": true} {
		if _, ok := m.Tag(key(tag)); ok != want {
			t.Errorf("tag %q: there %t, want %t", tag, ok, want)
		}
	}
	for d, want := range map[oci.Digest]bool{held: true, gone: false} {
		_, _, free := m.Free(d)
		if got := fmt.Sprint(m.MediaType(d) != "", m.Link("quay.io", "a", d) == Proven, m.DeliveredBy("quay.io", d), free); got != fmt.Sprint(want, want, want, want) {
			t.Errorf("records of %s: %s, want all %t", d, got, want)
		}
	}
	if _, ok := m.Open("quay.io", "a"); !ok {
		t.Error("a recent answer is gone")
	}
	if _, ok := m.Open("quay.io", "b"); ok {
		t.Error("an old answer is there")
	}
	if n := m.Sweep(is, since); n != 0 {
		t.Errorf("a second sweep dropped %d records", n)
	}
}
