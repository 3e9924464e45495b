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
			if a := h.ask("GET", address).expect(t, 200); a.outcome() != "HIT" { // the registry has proven that it holds it
				t.Errorf("the next client's outcome is %s, want HIT", a.outcome())
			}
			want := map[bool]int{true: 1, false: 2}[tt.finished]
			asked := reg.Find(ended)
			if len(asked) != want {
				t.Fatalf("%d GETs, want %d", len(asked), want)
			}
			if !tt.finished && asked[1].Sent > size-tt.sent+1<<20 {
				t.Errorf("the second client's download asks for %q of a blob of which the first had %d bytes", asked[1].Range(), tt.sent-1<<20)
			}
		})
	}
}
