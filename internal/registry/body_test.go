package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// The ranges of real clients, on a blob that is cached, on one that is not, and on a client's own.
func TestRanges(t *testing.T) {
	t.Parallel()
	const size = 300 << 10
	body := registrytest.Bytes(70, size)
	for _, state := range []string{"cached", "cold", "own", "nothing can be stored"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			r := private(t, nil)
			p := plan{world: r.World}
			repo, headers := "library/app", []string(nil)
			switch state {
			case "own":
				repo, headers = "alice/app", []string{basic}
			case "nothing can be stored":
				p.maxSize = 1
			}
			d := r.PutBlob(repo, body)
			h := p.build(t)
			if state == "cached" {
				h.get(r, blob(repo, d)).is(t, 200, body)
				eventually(t, "the blob is committed", func() bool { return h.cache.Fills() == 0 })
			}
			for _, tc := range []struct {
				name, header string
				start, end   int
			}{
				{"dockerd's and containerd's resume", "bytes=100000-", 100000, size},
				{"SOCI's probe", "bytes=0-1", 0, 2},
				{"a chunk of containerd's parallel pull", "bytes=65536-131071", 65536, 131072},
				{"the last byte", fmt.Sprintf("bytes=%d-", size-1), size - 1, size},
				{"a suffix", "bytes=-10", size - 10, size},
				{"past the end", "bytes=0-999999999", 0, size},
			} {
				if state == "cold" { // each time
					h = plan{world: r.World}.build(t)
				}
				a := h.get(r, blob(repo, d), append(headers, "Range: "+tc.header)...).is(t, 206, body[tc.start:tc.end]).has(t,
					fmt.Sprintf("Content-Range: bytes %d-%d/%d", tc.start, tc.end-1, size), "Content-Length: "+strconv.Itoa(tc.end-tc.start), "Docker-Content-Digest: "+string(d))
				if unverified := strings.HasSuffix(a.header.Get("X-Cache"), "-UNVERIFIED"); unverified && (state == "cached" || tc.end == size) {
					t.Errorf("%s: marked %s", tc.name, a.header.Get("X-Cache"))
				}
			}
			h.get(r, blob(repo, d), append(headers, "Range: bytes=9999999-")...).is(t, 416, nil).has(t, fmt.Sprintf("Content-Range: bytes */%d", size))
			h.get(r, blob(repo, d), append(headers, "Range: bytes=5-1")...).is(t, 200, body)
			h.get(r, blob(repo, d), append(headers, "Range: bytes=0-9", `If-Range: "x"`)...).is(t, 200, body)
			h.get(r, blob(repo, d), append(headers, "Range: bytes=0-9", `If-Range: "`+string(d)+`"`)...).is(t, 206, body[:10])
			multi(t, h.get(r, blob(repo, d), append(headers, "Range: bytes=0-9,100000-170000,-5")...), body, [][2]int{{0, 10}, {100000, 170001}, {size - 5, size}})
		})
	}
}

// multi checks a multipart answer, which podman's zstd:chunked and the lazy snapshotters ask for.
func multi(t *testing.T, a answer, body []byte, want [][2]int) {
	t.Helper()
	a.is(t, 206, nil)
	if a.length != int64(len(a.body)) {
		t.Errorf("%s: announced %d bytes, sent %d", a.what, a.length, len(a.body))
	}
	mediaType, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/byteranges" {
		t.Fatalf("%s: Content-Type %q, %v", a.what, a.header.Get("Content-Type"), err)
	}
	parts := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, span := range want {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatalf("%s: %v", a.what, err)
		}
		got, err := io.ReadAll(part)
		if err != nil || !bytes.Equal(got, body[span[0]:span[1]]) {
			t.Errorf("%s: part %v has %d bytes, %v", a.what, span, len(got), err)
		}
		if got, want := part.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/%d", span[0], span[1]-1, len(body)); got != want {
			t.Errorf("%s: Content-Range %q, want %q", a.what, got, want)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("%s: more parts than %v: %v", a.what, want, err)
	}
}

// Probes of a cold blob cost those bytes, and the whole of it afterwards no byte twice, but for what is on its way when a
// connection is given up.
func TestRangesOfAColdBlobCostNothingTwice(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	body := registrytest.Bytes(71, 16<<20)
	d := r.PutBlob(repo, body)
	h := plan{world: r.World}.build(t)
	h.get(r, blob(repo, d), "Range: bytes=0-1").is(t, 206, body[:2])
	h.get(r, blob(repo, d), "Range: bytes=8388608-8388617").is(t, 206, body[8<<20:8<<20+10])
	if sent := r.BlobBytes(d); sent > 64<<10 {
		t.Errorf("probes of 12 bytes cost %d", sent)
	}
	h.get(r, blob(repo, d)).is(t, 200, body)
	const onItsWay = 4 << 20 // what sockets hold
	if sent := r.BlobBytes(d); sent > int64(len(body))+onItsWay {
		t.Errorf("%d bytes left the registry for a blob of %d", sent, len(body))
	}
}

// The faults of real networks and registries: the client gets the true bytes or a cut, and the cache nothing wrong.
func TestFaultyBodies(t *testing.T) {
	t.Parallel()
	const size = 400 << 10
	for name, tc := range map[string]struct {
		fault registrytest.Body
		good  bool // the client sees nothing of it
	}{
		"cut once":                    {registrytest.Body{CutAfter: 100 << 10, Times: 1}, true},
		"reset once":                  {registrytest.Body{CutAfter: 100 << 10, CutReset: true, Times: 1}, true},
		"cut at the first byte, once": {registrytest.Body{CutAfter: 1, Times: 1}, true},
		"without length":              {registrytest.Body{Chunked: true}, true},
		"until close":                 {registrytest.Body{UntilClose: true}, true},
		"gzip":                        {registrytest.Body{Gzip: true}, true},
		"a wrong byte":                {registrytest.Body{CorruptAt: 1000}, false},
		"a wrong byte at the end":     {registrytest.Body{CorruptAt: size}, false},
		"too short a length":          {registrytest.Body{LengthOff: -10}, false},
		"too long a length":           {registrytest.Body{LengthOff: 10}, false},
		"a page":                      {registrytest.Body{HTML: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := registrytest.Bytes(72, size)
			r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Body: tc.fault}})
			d := r.PutBlob(repo, body)
			h := plan{world: r.World}.build(t)
			a := h.get(r, blob(repo, d))
			switch {
			case tc.good:
				a.is(t, 200, body)
			case a.err == nil && a.status == 200:
				t.Errorf("a whole answer of %d bytes", len(a.body))
			}
			r.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
			h.get(r, blob(repo, d)).is(t, 200, body)
			eventually(t, "the blob is committed", func() bool { return h.cache.Fills() == 0 })
			r.Forget()
			h.get(r, blob(repo, d)).is(t, 200, body).has(t, "X-Cache: HIT")
			counts(t, r, map[string]int{" ": 0})
		})
	}
}

// What passes through uncached is checked to its end as well: HTTP/1.0 has nothing but a reset to say that a body is not
// whole.
func TestWrongBytesNeverMakeAWholeAnswer(t *testing.T) {
	t.Parallel()
	for _, chunked := range []bool{false, true} {
		for _, size := range []int{1000, 300 << 10} {
			r := private(t, nil)
			d := r.PutBlob("alice/app", registrytest.Bytes(73, size))
			h := plan{world: r.World}.build(t)
			r.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{CorruptAt: 10, Chunked: chunked} })
			a := h.get(r, blob("alice/app", d), basic)
			if a.err == nil && a.status == 200 {
				t.Errorf("%d bytes, chunked %t: a whole answer", size, chunked)
			}
			got, err := h.raw("GET " + blob("alice/app", d) + " HTTP/1.0\r\nHost: " + r.Host() + "\r\n" + basic + "\r\n\r\n")
			head, rest, _ := strings.Cut(got, "\r\n\r\n")
			announced := strings.Contains(head, fmt.Sprintf("Content-Length: %d", size)) && len(rest) < size
			if err == nil && strings.Contains(head, " 200 ") && !announced {
				t.Errorf("%d bytes, chunked %t, HTTP/1.0: a proper end after %d bytes: %q", size, chunked, len(rest), head)
			}
			if err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%d bytes, chunked %t, HTTP/1.0: %v, want a reset", size, chunked, err)
			}
		}
	}
}

// A stored file that has changed is not given out: the response goes on with what upstream delivers.
func TestADamagedBlobIsRefilled(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	for name, damage := range map[string]func(t *testing.T, file string){
		"a bit at the beginning": flip(10), "a bit in the middle": flip(size / 2), "a bit at the end": flip(size - 1),
		"cut short": func(t *testing.T, file string) {
			if err := os.Truncate(file, size/3); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, registrytest.Config{})
			body := registrytest.Bytes(74, size)
			d := r.PutBlob(repo, body)
			h := plan{world: r.World}.build(t)
			h.get(r, blob(repo, d)).is(t, 200, body)
			eventually(t, "the blob is committed", func() bool { return h.cache.Fills() == 0 })
			damage(t, filepath.Join(h.dir, "blobs", "sha256", d.Hex()[:2], d.Hex()))
			h.get(r, blob(repo, d)).is(t, 200, body)
			eventually(t, "the blob is committed again", func() bool { return h.cache.Fills() == 0 })
			r.Forget()
			h.get(r, blob(repo, d), "Range: bytes=1000-").is(t, 206, body[1000:]).has(t, "X-Cache: HIT")
			counts(t, r, map[string]int{" ": 0})
		})
	}
}

func flip(at int64) func(*testing.T, string) {
	return func(t *testing.T, file string) {
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{b[0] ^ 1}, at); err != nil {
			t.Fatal(err)
		}
	}
}

// Where nothing can be stored each client costs a download, and none fails.
func TestAFullStoreFailsNobody(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	img := r.PushImage(repo, "1", registrytest.Bytes(75, 300<<10))
	h := plan{world: r.World, maxSize: 1}.build(t)
	layer := img.Layers[0].Digest
	together(8, func(int) {
		h.get(r, manifest(repo, "1"), acceptAll).is(t, 200, img.Manifest)
		h.get(r, blob(repo, layer)).is(t, 200, img.Blobs[layer]).has(t, "X-Cache: BYPASS")
	})
}

func TestErrorsAreTheRegistrysOwnInAForm(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	h := plan{world: r.World}.build(t)
	d := oci.FromBytes([]byte("nowhere"))
	for path, code := range map[string]string{
		manifest(repo, "nope"): oci.CodeManifestUnknown, manifest(repo, string(d)): oci.CodeManifestUnknown, blob(repo, d): oci.CodeBlobUnknown,
	} {
		a := h.get(r, path, acceptAll).is(t, 404, nil).has(t, "Content-Type: application/json")
		if !strings.Contains(string(a.body), `"`+code+`"`) {
			t.Errorf("%s: %s, want %s", path, a.body, code)
		}
		h.head(r, path, acceptAll).is(t, 404, []byte{})
	}
	// ECR says so in plain text, with 403 and no challenge.
	const text = "Your authorization token has expired. Reauthenticate and try again."
	r.Set(func(f *registrytest.Faults) {
		f.Registry = registrytest.Outage{Status: 403, Text: text, Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}}}
	})
	a := h.get(r, manifest(repo, "1"), acceptAll).is(t, 403, nil).has(t, "Content-Type: application/json")
	if !strings.Contains(string(a.body), text) || !strings.Contains(string(a.body), oci.CodeDenied) {
		t.Errorf("not the registry's words: %s", a.body)
	}
	r.Set(func(f *registrytest.Faults) { f.Registry.Text = "<script>" + text })
	if a := h.get(r, manifest(repo, "1"), acceptAll).is(t, 403, nil); strings.Contains(string(a.body), "script") {
		t.Errorf("markup is passed on: %s", a.body)
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	h := plan{world: r.World}.build(t)
	for _, path := range []string{
		"/v2/a/manifests/..", "/v2/a/blobs/sha256:abc", "/v2/A/manifests/1", "/v2/a/%2e%2e/manifests/1", "/v2/a//b/manifests/1",
		"/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", "/v1/search", "/v2/a/nothing/1",
	} {
		a := h.get(r, path)
		if a.err != nil || a.status != 400 && a.status != 404 || !strings.Contains(string(a.body), `"errors"`) {
			t.Errorf("%s: status %d, %v, %s", path, a.status, a.err, a.body)
		}
	}
	for _, method := range []string{"LINK", "OPTIONS", "get", "TRACE"} {
		if a := h.ask(t.Context(), method, r, manifest(repo, "1")); a.status != 405 {
			t.Errorf("%s: status %d, want 405", method, a.status)
		}
	}
	counts(t, r, map[string]int{" ": 0})
}

// A ping is answered here where the registry is in trouble, and by the registry where it is not.
func TestPings(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Login: registrytest.Bearer})
	h := plan{world: r.World, giveUp: 100 * time.Millisecond}.build(t)
	eventually(t, "the registry's challenge is passed on", func() bool {
		h.pass(time.Minute) // past what a slow answer before has it left alone for
		a := h.get(r, "/v2/", "X-Http-Method-Override: DELETE", "Upgrade: h2c", "Connection: Upgrade", "Cookie: a=b")
		return a.status == 401 && strings.HasPrefix(a.header.Get("Www-Authenticate"), "Bearer ")
	})
	for _, req := range r.Requests() {
		for _, name := range []string{"X-Http-Method-Override", "Upgrade", "Connection", "Cookie", "X-Forwarded-For"} {
			if req.Header.Get(name) != "" {
				t.Errorf("%s: %s travels", name, req.Header.Get(name))
			}
		}
	}
	for name, outage := range outages() {
		r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
		r.Set(outage)
		h.get(r, "/v2/").is(t, 200, nil).has(t, "Docker-Distribution-Api-Version: registry/2.0")
		_ = name
	}
	central := plan{world: r.World, central: []string{r.Host() + " op secret"}}.build(t)
	r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
	r.Forget()
	central.get(r, "/v2/").is(t, 200, []byte("{}")).has(t, "Docker-Distribution-Api-Version: registry/2.0")
	counts(t, r, map[string]int{" ": 0})
}

// Lists pass through with their paging and filters. Those of tags are not kept.
func TestLists(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{PageSize: 1, AbsoluteLinks: true}})
	img := r.PushImage(repo, "1", registrytest.Bytes(76, 10))
	r.PushImage(repo, "2", registrytest.Bytes(77, 10))
	r.PushReferrer(repo, img.Descriptor, "application/x-signature")
	h := plan{world: r.World}.build(t)
	for range 2 {
		a := h.get(r, "/v2/"+repo+"/tags/list?n=1").is(t, 200, []byte(`{"name":"library/app","tags":["1"]}`)).has(t, "X-Cache: BYPASS")
		if want := "<" + r.URL() + "/v2/" + repo + "/tags/list?n=1&last=1>; rel=\"next\""; a.header.Get("Link") != want {
			t.Errorf("Link %q, want %q", a.header.Get("Link"), want)
		}
		h.get(r, "/v2/"+repo+"/referrers/"+string(img.Digest)+"?artifactType=application/x-signature").is(t, 200, nil).
			has(t, "OCI-Filters-Applied: artifactType", "Content-Type: "+registrytest.TypeIndex)
	}
	counts(t, r, map[string]int{"GET /tags/list": 2, "GET /referrers/": 1})
	r.Set(func(f *registrytest.Faults) { f.NoReferrers = true })
	h.pass(time.Minute)
	h.get(r, "/v2/"+repo+"/referrers/"+string(img.Digest)).is(t, 404, nil)
}
