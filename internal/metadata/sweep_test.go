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
	for repository, at := range map[string]time.Time{"a": since.Add(-time.Hour), "old": since.Add(-time.Hour), "new": now} {
		m.PutOpen("quay.io", repository, OpenAnswer{Open: true, At: at})
		m.PutReached("quay.io", repository, OpenAnswer{Open: true, At: at})
	}
	for i := range 2 * sweepAtOnce { // more than are read at one time, every other of them held
		d := held
		if i%2 == 0 {
			d = oci.FromBytes(fmt.Append(nil, i))
		}
		m.PutClaim("quay.io", fmt.Sprint("many", i), d)
	}

	is := func(d oci.Digest) bool { return d == held }
	// A tag; two links, of the repository and of the registry; what is free; a media type; two answers; half of many links.
	if n := m.Sweep(is, since); n != 7+sweepAtOnce {
		t.Errorf("%d records dropped, want %d", n, 7+sweepAtOnce)
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
	// Of what is held it stays known who may have it, however long ago that was asked.
	for repository, want := range map[string]bool{"a": true, "old": false, "new": true} {
		_, open := m.Open("quay.io", repository)
		_, reached := m.Reached("quay.io", repository)
		if open != want || reached != want {
			t.Errorf("answers about %q: open there %t, central there %t, want %t", repository, open, reached, want)
		}
	}
	if n := m.Sweep(is, since); n != 0 {
		t.Errorf("a second sweep dropped %d records", n)
	}
}
