package app_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// fault is what may happen to a blob on its way to the proxy, and what comes of it.
type fault struct {
	faults  registrytest.Faults
	environ []string
	whole   bool // the client gets the blob, as if nothing had happened
	gets    int  // what the registry is asked for it, the first client's request and what it takes to go on
	twice   int  // bytes that are sent again because nobody could know better
}

const faultSize, faultAt = 3 << 20, 1 << 20

// faultTable is the faults of real registries, their CDNs and the networks between. Those that strike once are over for
// whoever asks again. What is longer than announced is cut short by the registry's own server, and of another size when it
// is asked for the rest, five times.
func faultTable() map[string]fault {
	body := func(b registrytest.Body) registrytest.Faults { return registrytest.Faults{Body: b} }
	redirected := func(f registrytest.Faults) registrytest.Faults {
		f.Redirect = http.StatusTemporaryRedirect
		return f
	}
	blobs := func(r *http.Request) bool {
		return strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Range") == ""
	}
	return map[string]fault{
		"none":                       {whole: true, gets: 1},
		"truncated once":             {faults: body(registrytest.Body{CutAfter: faultAt, Times: 1}), whole: true, gets: 2},
		"reset once":                 {faults: body(registrytest.Body{CutAfter: faultAt, CutReset: true, Times: 1}), whole: true, gets: 2, twice: faultAt},
		"reset every megabyte":       {faults: body(registrytest.Body{CutAfter: faultAt, CutReset: true, Times: 2}), whole: true, gets: 3, twice: 2 * faultAt},
		"stalled once":               {faults: body(registrytest.Body{StallAfter: faultAt, Times: 1}), environ: []string{"PROXY_READ_TIMEOUT=1s"}, whole: true, gets: 2},
		"a range ignored":            {faults: body(registrytest.Body{CutAfter: faultAt, IgnoreRange: true, Times: 2}), whole: true, gets: 3, twice: 2 * faultAt},
		"no length":                  {faults: body(registrytest.Body{Chunked: true, Times: 1}), whole: true, gets: 1},
		"gzip that nobody asked for": {faults: body(registrytest.Body{Gzip: true, Times: 1}), whole: true, gets: 1},
		"another byte":               {faults: body(registrytest.Body{CorruptAt: faultSize / 2, Times: 1}), gets: 1},
		"another last byte":          {faults: body(registrytest.Body{CorruptAt: faultSize, Times: 1}), gets: 1},
		"shorter than announced":     {faults: body(registrytest.Body{LengthOff: 1000, Times: 1}), gets: 2},
		"longer than announced":      {faults: body(registrytest.Body{LengthOff: -1000, Times: 1}), gets: 6},
		"a page":                     {faults: body(registrytest.Body{HTML: true, Times: 1}), gets: 1},
		"a JSON error with 200":      {faults: registrytest.Faults{Registry: registrytest.Outage{Status: 200, Text: `{"errors":[{"code":"UNKNOWN"}]}`, Only: blobs, Times: 1}}, gets: 1},
		"503 once":                   {faults: registrytest.Faults{Registry: registrytest.Outage{Status: 503, Only: blobs, Times: 1}}, gets: 1},
		"a CDN's URL that expires meanwhile": {
			faults:  redirected(registrytest.Faults{URLLife: 900 * time.Millisecond, Body: registrytest.Body{StallAfter: faultAt, Times: 1}}),
			environ: []string{"PROXY_READ_TIMEOUT=1s"}, whole: true, gets: 2,
		},
		"a CDN that resets once": {faults: redirected(body(registrytest.Body{CutAfter: faultAt, CutReset: true, Times: 1})), whole: true, gets: 2, twice: faultAt},
	}
}

// For each fault: what the client sees, what upstream sees, and what is on disk.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, tt := range faultTable() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := registrytest.New(t, registrytest.Config{Faults: tt.faults})
			blob := registrytest.Bytes(1, faultSize)
			digest := reg.PutBlob("app", blob)
			h := start(t, reg.World, append(tt.environ, "REGISTRIES="+reg.Host(), "PARALLEL_DOWNLOADS=1")...)
			address := fmt.Sprintf("%s/v2/app/blobs/%s", reg.URL(), digest)

			a, err := do(h.http, request(t, "GET", address, nil))
			whole := err == nil && a.status == 200 && a.cut == nil
			if whole != tt.whole || whole && string(a.body) != string(blob) {
				t.Errorf("the client got %d, %d bytes, %v, %v; want the blob: %t", a.status, len(a.body), a.cut, err, tt.whole)
			}
			asked, sent := reg.Count("GET", "/v2/app/blobs/"), reg.BlobBytes(digest)
			if asked != tt.gets || tt.whole && sent > int64(faultSize+tt.twice)+faultAt {
				t.Errorf("the registry was asked %d times and sent %d bytes, want %d times and %d bytes", asked, sent, tt.gets, faultSize+tt.twice)
			}
			if tt.whole {
				eventually(t, "the blob is stored", func() bool { return h.stored(digest) })
			} else if h.stored(digest) {
				t.Error("what is not the blob is stored under its name")
			}

			// The next client has it, and there is nothing on disk but the blob.
			if a := h.ask("GET", address).expect(t, 200); string(a.body) != string(blob) {
				t.Errorf("the next client got %d other bytes", len(a.body))
			}
			eventually(t, "the blob is stored", func() bool { return h.stored(digest) })
			eventually(t, "staging is empty", func() bool {
				files, err := filepath.Glob(filepath.Join(h.root, "cache", "staging", "*"))
				return err == nil && len(files) == 0
			})
			if stored, err := os.ReadFile(h.blobFile(digest)); err != nil || string(stored) != string(blob) {
				t.Errorf("%d bytes are stored, %v", len(stored), err)
			}
			h.wantLayout()
		})
	}
}

// A registry that answers 206 to a request for the whole is not believed, whatever it sends.
func TestAPartThatNobodyAskedFor(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	blob := registrytest.Bytes(1, 100_000)
	digest := registrytest.New(t, registrytest.Config{World: world}).PutBlob("app", blob)
	odd := world.Site("odd.test", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(blob)-1, len(blob)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(blob)
	}))
	h := start(t, world, "REGISTRIES="+odd)
	if a := h.ask("GET", fmt.Sprintf("https://%s/v2/app/blobs/%s", odd, digest)); a.status < 500 || h.stored(digest) {
		t.Errorf("answered %d; stored: %t; want an error, and nothing stored", a.status, h.stored(digest))
	}
	h.wantLayout()
}
