package app_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// effectAbandonedDownloads has one client of a blob, which leaves when the registry has sent a part.
func effectAbandonedDownloads(t *testing.T) {
	const size = 12 << 20
	for _, tt := range []struct {
		value    string
		sent     int64 // of the blob, when the client leaves
		finished bool
	}{
		{"finish", 2 << 20, true},
		{"stop", 10 << 20, false},
		{"50%", 2 << 20, false},
		{"50%", 7 << 20, true},
		{"100%", 9 << 20, true}, // what little is missing is always worth it
	} {
		t.Run(fmt.Sprintf("%s after %d MiB", tt.value, tt.sent>>20), func(t *testing.T) {
			t.Parallel()
			reg := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Body: registrytest.Body{StallAfter: tt.sent}}})
			digest := reg.PutBlob("app", registrytest.Bytes(1, size))
			address := fmt.Sprintf("%s/v2/app/blobs/%s", reg.URL(), digest)
			h := start(t, reg.World, "REGISTRIES="+reg.Host(), "ABANDONED_DOWNLOADS="+tt.value, "PARALLEL_DOWNLOADS=1")
			resp, err := h.http.Get(address)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, resp.Body, tt.sent-1<<20); err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			ended := func(r registrytest.Request) bool {
				return r.Method == "GET" && strings.Contains(r.Path, "/blobs/") && r.Done
			}
			if !tt.finished {
				reg.AwaitFunc(1, ended)
			}
			reg.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
			if tt.finished {
				eventually(t, "a download that nobody waits for is finished", func() bool { return h.stored(digest) })
			}
			h.ask("GET", address).expect(t, 200)
			want := map[bool]int{true: 1, false: 2}[tt.finished]
			if n, sent := reg.Count("GET", "/blobs/"), reg.BlobBytes(digest); n != want || sent > size+1<<20 {
				t.Errorf("the registry sent %d bytes in answer to %d GETs, want the blob's %d in answer to %d", sent, n, size, want)
			}
			if asked := reg.Find(ended); !tt.finished && !strings.HasPrefix(asked[1].Range(), "bytes=") {
				t.Errorf("the second client's download asks for %q, want the rest alone", asked[1].Range())
			}
		})
	}
}
