package registry_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// acceptAll is what podman sends; acceptImages is a client that knows no index.
const (
	acceptAll = "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
		"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
	acceptImages = "Accept: application/vnd.oci.image.manifest.v1+json"
)

// composition is a state that a proxy can be in when a pull comes.
type composition struct {
	name string
	// ready brings the proxy there; pull is what will be pulled.
	ready func(h *house, pull func(*house)) *house
	plan  func(*plan)
	// fetched is whether blobs have to come from upstream.
	fetched bool
	blobs   string // the outcome of a blob
}

func compositions() []composition {
	as := func(h *house, _ func(*house)) *house { return h }
	warm := func(h *house, pull func(*house)) *house {
		pull(h)
		eventually(h.t, "all is committed", func() bool { return h.cache.Fills() == 0 })
		return h
	}
	return []composition{
		{"cold", as, func(*plan) {}, true, "MISS"},
		{"warm", warm, func(*plan) {}, false, "HIT"},
		{"restarted", func(h *house, pull func(*house)) *house { pull(h); return h.again() }, func(*plan) {}, false, "HIT"},
		{"tags are fresh", warm, func(p *plan) { p.freshFor = time.Hour }, false, "HIT"},
		{"nothing can be stored", warm, func(p *plan) { p.maxSize = 1 }, true, "BYPASS"},
	}
}

// One suite of pulls, over every composition: the bytes, types, digests and sizes are those of the registry, whoever
// delivers them.
func TestAPullIsTheSameInEveryComposition(t *testing.T) {
	t.Parallel()
	for _, login := range []registrytest.Login{registrytest.Open, registrytest.Bearer, registrytest.Basic} {
		for _, c := range compositions() {
			t.Run(fmt.Sprint(c.name, " login ", login), func(t *testing.T) {
				t.Parallel()
				cfg := registrytest.Config{Login: login, Users: map[string]string{"op": "secret"}}
				if login != registrytest.Open {
					cfg.Faults.Redirect = 307
				}
				r := registrytest.New(t, cfg)
				idx := r.PushIndex("library/app", "1", []string{"amd64", "arm64"}, registrytest.Bytes(1, 300<<10), registrytest.Bytes(2, 10))
				p := plan{world: r.World}
				if login == registrytest.Basic {
					p.central = []string{r.Host() + " op secret"}
				}
				c.plan(&p)
				pull := func(h *house) { pullIndex(h, r, idx, "") }
				h := c.ready(p.build(t), pull)
				r.Forget()
				pullIndex(h, r, idx, c.blobs)
				if got := r.Count("GET", "/blobs/") > 0; got != c.fetched {
					t.Errorf("blobs were fetched: %t, want %t: %q", got, c.fetched, registrytest.Paths(r.Requests()))
				}
				if c.name == "tags are fresh" && login != registrytest.Basic {
					counts(t, r, map[string]int{" ": 0})
				}
			})
		}
	}
}

// pullIndex does what clients do: by tag, by digest, config and layers, and a HEAD of each.
func pullIndex(h *house, r *registrytest.Registry, idx registrytest.Index, blobs string) {
	h.t.Helper()
	const repo = "library/app"
	check := func(path string, desc oci.Descriptor, body []byte, headers ...string) answer {
		h.t.Helper()
		mediaType := desc.MediaType
		if body != nil && strings.Contains(path, "/blobs/") {
			mediaType = "application/octet-stream"
		}
		want := []string{"Content-Type: " + mediaType, "Docker-Content-Digest: " + string(desc.Digest), "Content-Length: " + strconv.Itoa(len(body)), "Docker-Distribution-Api-Version: registry/2.0"}
		h.head(r, path, headers...).is(h.t, 200, []byte{}).has(h.t, want...)
		return h.get(r, path, headers...).is(h.t, 200, body).has(h.t, want...)
	}
	check(manifest(repo, "1"), idx.Descriptor, idx.Body, acceptAll)
	check(manifest(repo, string(idx.Digest)), idx.Descriptor, idx.Body, acceptAll)
	for _, img := range idx.Images {
		check(manifest(repo, string(img.Digest)), img.Descriptor, img.Manifest, acceptAll)
		for _, desc := range append(img.Layers, img.Config) {
			a := check(blob(repo, desc.Digest), desc, img.Blobs[desc.Digest])
			if got := a.header.Get("X-Cache"); blobs != "" && img.Architecture == "amd64" && got != blobs {
				h.t.Errorf("blob is %s, want %s", got, blobs)
			}
		}
	}
}

func TestManyClientsOfAColdBlobCostOneDownload(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	body := registrytest.Bytes(3, 2<<20)
	d := r.PutBlob("library/app", body)
	h := plan{world: r.World}.build(t)
	r.Set(func(f *registrytest.Faults) { f.Body.StallAfter = 100 << 10 })
	done := make(chan struct{})
	go func() { // waited for below
		defer close(done)
		together(32, func(int) { h.get(r, blob("library/app", d)).is(t, 200, body) })
	}()
	r.Await(1, "GET", string(d))
	eventually(t, "all clients wait for one fill", func() bool { return strings.Count(h.log.String(), `"msg":"request"`) == 0 && h.cache.Fills() == 1 })
	r.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
	<-done
	counts(t, r, map[string]int{"GET /blobs/": 1})
	if sent := r.BlobBytes(d); sent != int64(len(body)) {
		t.Errorf("%d bytes left the registry, want %d", sent, len(body))
	}
}

func TestManyClientsOfAColdTagCostOneGet(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Manifests: true, Body: registrytest.Body{StallAfter: 10}}})
	img := r.PushImage("library/app", "1", registrytest.Bytes(4, 10))
	h := plan{world: r.World, freshFor: time.Hour}.build(t)
	done := make(chan struct{})
	go func() { // waited for below
		defer close(done)
		together(50, func(int) { h.get(r, manifest("library/app", "1"), acceptAll).is(t, 200, img.Manifest) })
	}()
	r.Await(1, "GET", "/manifests/1")
	r.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
	<-done
	counts(t, r, map[string]int{"GET /manifests/": 1, "HEAD /manifests/": 0})
}

// A client that leaves takes nothing with it, be it the one for whom a question was asked first.
func TestOneThatLeavesFailsNobody(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Manifests: true, Body: registrytest.Body{StallAfter: 10}}})
	img := r.PushImage("library/app", "1", registrytest.Bytes(5, 200<<10))
	h := plan{world: r.World}.build(t)
	layer := img.Layers[0].Digest
	for _, tc := range []struct {
		path string
		body []byte
	}{
		{manifest("library/app", "1"), img.Manifest},
		{manifest("library/app", string(img.Digest)), img.Manifest},
		{blob("library/app", layer), img.Blobs[layer]},
	} {
		h = plan{world: r.World}.build(t)
		r.Forget()
		r.Set(func(f *registrytest.Faults) { f.Body.StallAfter = 10 })
		leaves, leave := context.WithCancel(t.Context())
		left := make(chan error)
		go func() { left <- h.ask(leaves, "GET", r, tc.path, acceptAll).err }()
		r.Await(1, "GET", tc.path)
		stayed := make(chan answer)
		go func() { stayed <- h.get(r, tc.path, acceptAll) }()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: the one that left: %v", tc.path, err)
		}
		r.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
		(<-stayed).is(t, 200, tc.body)
		counts(t, r, map[string]int{"GET " + tc.path: 1})
	}
}

// A registry converts what a client does not name: a record of one client's choice must not answer another's.
func TestAnIndexNeverAnswersAClientOfImages(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	idx := r.PushIndex("library/app", "", []string{"amd64"}, registrytest.Bytes(6, 10))
	img := idx.Images[0]
	chooses := newSite(t, r.World, "chooses.test", func(w http.ResponseWriter, req *http.Request) {
		desc, body := img.Descriptor, img.Manifest
		if strings.HasSuffix(req.URL.Path, string(idx.Digest)) || strings.HasSuffix(req.URL.Path, "/1") && strings.Contains(req.Header.Get("Accept"), "index") {
			desc, body = idx.Descriptor, idx.Body
		}
		w.Header().Set("Content-Type", desc.MediaType)
		w.Header().Set("Docker-Content-Digest", string(desc.Digest))
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(body))
	})
	h := plan{world: r.World, freshFor: time.Hour}.build(t)
	for i := range 6 {
		accept, body, mediaType := acceptAll, idx.Body, registrytest.TypeIndex
		if i%2 == 1 {
			accept, body, mediaType = acceptImages, img.Manifest, registrytest.TypeManifest
		}
		h.get(chooses, manifest("library/app", "1"), accept).is(t, 200, body).has(t, "Content-Type: "+mediaType)
		h.head(chooses, manifest("library/app", "1"), accept).is(t, 200, nil).has(t, "Content-Type: "+mediaType)
	}
	if n := chooses.count("GET /v2/library/app/manifests/1"); n != 2 {
		t.Errorf("the tag was fetched %d times, want once for each kind of client", n)
	}
	// curl takes everything, as containerd does that lists an index too: one may be given what the other is not.
	h.get(chooses, manifest("library/app", "1"), "Accept: */*").is(t, 200, img.Manifest)
	h.get(chooses, manifest("library/app", "1"), acceptAll+", */*").is(t, 200, idx.Body)
	// By digest it is the registry's business what to say to one that does not take it.
	h.get(chooses, manifest("library/app", string(idx.Digest)), acceptAll).is(t, 200, idx.Body)
	n := chooses.count("GET")
	h.get(chooses, manifest("library/app", string(idx.Digest)), acceptImages)
	if chooses.count("GET") != n+1 {
		t.Error("a cached index answered a client that asked for an image")
	}
}

// site is a registry of a handler's making.
type site struct {
	authority string
	mu        sync.Mutex
	asked     []string // method and path
}

func newSite(t testing.TB, world *registrytest.World, name string, handler http.HandlerFunc) *site {
	s := &site{}
	s.authority = world.Site(name, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, req.Method+" "+req.URL.Path)
		s.mu.Unlock()
		handler(w, req)
	}))
	return s
}

func (s *site) Host() string { return s.authority }

// count is how many requests began like that.
func (s *site) count(beginning string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.asked {
		if strings.HasPrefix(line, beginning) {
			n++
		}
	}
	return n
}

// Equal names in two registries are two things, and equal bytes under two names are one.
func TestRegistriesDoNotMix(t *testing.T) {
	t.Parallel()
	a := registrytest.New(t, registrytest.Config{})
	b := registrytest.New(t, registrytest.Config{World: a.World, Name: "other.test"})
	shared := registrytest.Bytes(7, 100<<10)
	imgA := a.PushImage("library/app", "1", shared, registrytest.Bytes(8, 10))
	imgB := b.PushImage("library/app", "1", shared, registrytest.Bytes(9, 10))
	h := plan{world: a.World, freshFor: time.Hour}.build(t)
	d := oci.FromBytes(shared)
	for i := range 20 {
		r, img := a, imgA
		if i%2 == 1 {
			r, img = b, imgB
		}
		h.get(r, manifest("library/app", "1"), acceptAll).is(t, 200, img.Manifest)
		h.get(r, blob("library/app", d)).is(t, 200, shared)
	}
	counts(t, a, map[string]int{"GET /blobs/": 1, "GET /manifests/1": 1})
	counts(t, b, map[string]int{"GET /blobs/": 0, "HEAD /blobs/": 1, "GET /manifests/1": 1})
}

func TestConditionalRequests(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	img := r.PushImage("library/app", "1", registrytest.Bytes(10, 200<<10))
	h := plan{world: r.World, freshFor: time.Hour}.build(t)
	for path, d := range map[string]oci.Digest{
		manifest("library/app", "1"): img.Digest, manifest("library/app", string(img.Digest)): img.Digest,
		blob("library/app", img.Layers[0].Digest): img.Layers[0].Digest,
	} {
		tag := h.get(r, path).is(t, 200, nil).header.Get("Etag")
		if tag != `"`+string(d)+`"` {
			t.Errorf("%s: Etag %q", path, tag)
		}
		for _, match := range []string{tag, "W/" + tag, `"x", ` + tag, "*"} {
			h.get(r, path, "If-None-Match: "+match).is(t, 304, []byte{}).has(t, "Docker-Content-Digest: "+string(d))
			h.head(r, path, "If-None-Match: "+match).is(t, 304, []byte{})
		}
		h.get(r, path, `If-None-Match: "x"`).is(t, 200, nil)
	}
}

func TestAClientOfHTTP10(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	small, large := registrytest.Bytes(11, 100), registrytest.Bytes(12, 300<<10)
	for _, body := range [][]byte{small, large} {
		for _, chunked := range []bool{false, true} {
			h := plan{world: r.World}.build(t)
			r.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{Chunked: chunked} })
			d := r.PutBlob("library/app", body)
			for _, outcome := range []string{"MISS", "HIT"} {
				got, err := h.raw("GET " + blob("library/app", d) + " HTTP/1.0\r\nHost: " + r.Host() + "\r\n\r\n")
				head, rest, _ := strings.Cut(got, "\r\n\r\n")
				if err != nil || !strings.HasPrefix(head, "HTTP/1.0 200 ") || rest != string(body) || !strings.Contains(head, "X-Cache: "+outcome) {
					t.Errorf("%d bytes, chunked upstream %t: %q with %d bytes, %v", len(body), chunked, head, len(rest), err)
				}
				if !strings.Contains(head, fmt.Sprintf("Content-Length: %d\r\n", len(body))) && !strings.HasSuffix(head, fmt.Sprintf("Content-Length: %d", len(body))) {
					t.Errorf("%d bytes, chunked upstream %t: no length in %q", len(body), chunked, head)
				}
			}
		}
	}
}

// A manifest over 4 MiB passes, checked to its end, and is not kept.
func TestALargeManifestPasses(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	body := []byte(`{"schemaVersion":2,"mediaType":"` + registrytest.TypeManifest + `","config":{},"layers":[],"annotations":{"a":"` + strings.Repeat("x", 4<<20) + `"}}`)
	d := r.PutManifest("library/app", "large", registrytest.TypeManifest, body)
	h := plan{world: r.World, freshFor: time.Hour}.build(t)
	for _, reference := range []string{"large", string(d)} {
		for range 2 {
			h.get(r, manifest("library/app", reference), acceptAll).is(t, 200, body).
				has(t, "Docker-Content-Digest: "+string(d), "Content-Type: "+registrytest.TypeManifest, "X-Cache: BYPASS")
		}
		h.head(r, manifest("library/app", reference), acceptAll).is(t, 200, nil).has(t, "Docker-Content-Digest: "+string(d), "Content-Length: "+strconv.Itoa(len(body)))
		r.Set(func(f *registrytest.Faults) { f.Manifests, f.Body.CorruptAt = true, 4<<20 })
		h.get(r, manifest("library/app", reference), acceptAll).cut(t)
		r.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
	}
	// Without a digest nothing can be checked, and nothing is claimed.
	r.Set(func(f *registrytest.Faults) { f.OmitDigestHeader = true })
	h = plan{world: r.World, freshFor: time.Hour}.build(t)
	h.get(r, manifest("library/app", "large"), acceptAll).is(t, 200, body).has(t, "Docker-Content-Digest:", "Etag:")
	if used := h.store.Usage(); used.Blobs != 0 {
		t.Errorf("%d blobs are stored", used.Blobs)
	}
}

func TestSHA512(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	body := registrytest.Bytes(13, 100<<10)
	d := oci.Digest(fmt.Sprintf("sha512:%x", sha512.Sum512(body)))
	r := newSite(t, world, "sha512.test", func(w http.ResponseWriter, req *http.Request) {
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(body))
	})
	h := plan{world: world}.build(t)
	for _, outcome := range []string{"MISS", "HIT"} {
		h.get(r, blob("library/app", d)).is(t, 200, body).has(t, "X-Cache: "+outcome, "Docker-Content-Digest: "+string(d))
	}
}

func TestTheEmptyBlob(t *testing.T) {
	t.Parallel()
	for _, redirect := range []int{0, 307} {
		r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Redirect: redirect}})
		d := r.PutBlob("library/app", []byte{})
		h := plan{world: r.World}.build(t)
		h.head(r, blob("library/app", d)).is(t, 200, nil).has(t, "Content-Length: 0")
		for _, outcome := range []string{"MISS", "HIT"} {
			h.get(r, blob("library/app", d)).is(t, 200, []byte{}).has(t, "X-Cache: "+outcome, "Content-Length: 0")
		}
	}
}

func TestRegistriesRemarksReachTheClient(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{RateLimit: "100;w=21600"}})
	img := r.PushImage("library/app", "1", registrytest.Bytes(14, 10))
	h := plan{world: r.World, freshFor: time.Hour}.build(t)
	h.get(r, manifest("library/app", "1"), acceptAll).is(t, 200, img.Manifest).has(t, "RateLimit-Limit: 100;w=21600")
	h.get(r, manifest("library/app", "1"), acceptAll).is(t, 200, img.Manifest).has(t, "X-Cache: HIT", "RateLimit-Limit:")
}

// RedHat's registry sends configs gzipped whatever was asked for: a digest is of the plain bytes.
func TestContentEncodingIsUndone(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Manifests: true, Body: registrytest.Body{Gzip: true}}})
	plain := bytes.Repeat([]byte("compresses well "), 20<<10)
	img := r.PushImage("library/app", "1", plain)
	h := plan{world: r.World, freshFor: time.Hour}.build(t)
	for _, outcome := range []string{"MISS", "HIT"} {
		h.get(r, manifest("library/app", "1"), acceptAll).is(t, 200, img.Manifest).has(t, "X-Cache: "+outcome, "Content-Encoding:")
		h.get(r, blob("library/app", img.Layers[0].Digest)).is(t, 200, plain).has(t, "X-Cache: "+outcome, "Content-Encoding:")
	}
}
