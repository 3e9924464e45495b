package app_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// A HEAD for a blob that is on its way costs no request for it: its size is known. Who may not have it learns nothing.
func TestAHeadIsAnsweredFromTheDownload(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	reg := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Redirect: 307, Body: registrytest.Body{StallAfter: size / 2}}})
	digest := reg.PutBlob("app", registrytest.Bytes(1, size))
	address := fmt.Sprintf("%s/v2/app/blobs/%s", reg.URL(), digest)
	h := start(t, reg.World, "REGISTRIES="+reg.Host(), "PARALLEL_DOWNLOADS=1")
	resp, err := h.http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	before := len(reg.Requests())
	a := h.ask("HEAD", address).expect(t, 200)
	if a.header.Get("Content-Length") != fmt.Sprint(size) || a.header.Get("Docker-Content-Digest") != string(digest) || a.outcome() != "COALESCED" {
		t.Errorf("HEAD in the middle of the download: %v", a.header)
	}
	if more := reg.Requests()[before:]; len(more) > 0 {
		t.Errorf("the HEAD costs %q", registrytest.Paths(more))
	}
	if a := h.ask("HEAD", fmt.Sprintf("%s/v2/other/blobs/%s", reg.URL(), digest)); a.status != http.StatusNotFound {
		t.Errorf("HEAD in a repository that does not hold the blob: %d, want 404", a.status)
	}
	reg.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if a := h.ask("HEAD", address).expect(t, 200); a.outcome() != "HIT" {
		t.Errorf("HEAD right after the download: %s, want HIT", a.outcome())
	}
}

// Whoever comes when all bytes have been verified has a hit, committed or not.
func TestAPullRightAfterTheFirstIsAHit(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t, registrytest.Config{})
	h := start(t, reg.World, "REGISTRIES="+reg.Host())
	for i := range 40 {
		digest := reg.PutBlob("app", registrytest.Bytes(uint64(i), 1<<20+i))
		address := fmt.Sprintf("%s/v2/app/blobs/%s", reg.URL(), digest)
		first, second := h.ask("GET", address).expect(t, 200), h.ask("GET", address).expect(t, 200)
		if first.outcome() != "MISS" || second.outcome() != "HIT" {
			t.Fatalf("blob %d: %s, then %s, want MISS, then HIT", i, first.outcome(), second.outcome())
		}
		if n := reg.Count("GET", string(digest)); n != 1 {
			t.Fatalf("blob %d was asked for %d times, want once", i, n)
		}
	}
}
