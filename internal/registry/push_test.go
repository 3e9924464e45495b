package registry_test

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

func TestPushesAreRefusedByDefault(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	h := plan{world: r.World}.build(t)
	d := oci.FromBytes(nil)
	for _, line := range []string{
		"POST /v2/library/app/blobs/uploads/", "PATCH /v2/library/app/blobs/uploads/x", "PUT /v2/library/app/blobs/uploads/x?digest=" + string(d),
		"GET /v2/library/app/blobs/uploads/x", "HEAD /v2/library/app/blobs/uploads/x", "DELETE /v2/library/app/blobs/uploads/x",
		"PUT /v2/library/app/manifests/1", "DELETE /v2/library/app/manifests/1", "DELETE /v2/library/app/blobs/" + string(d), "POST /v2/",
	} {
		method, path, _ := strings.Cut(line, " ")
		a := h.send(t.Context(), method, r, path, strings.NewReader("x"), "Authorization: Basic eDp5").is(t, 405, nil).has(t, "Allow: GET, HEAD", "Content-Type: application/json")
		if method != "HEAD" && (!strings.Contains(string(a.body), oci.CodeUnsupported) || !strings.Contains(string(a.body), "ALLOW_PUSH")) {
			t.Errorf("%s: %s does not name the setting", line, a.body)
		}
	}
	counts(t, r, map[string]int{" ": 0})
}

// A whole push as docker does it: the client's own login and nothing else, Locations as the registry spells them, and
// the new image at once for whoever pulls it next.
func TestAPush(t *testing.T) {
	t.Parallel()
	for _, buffer := range []bool{false, true} {
		for _, central := range []bool{false, true} {
			r := private(t, nil)
			old := r.PushImage("alice/app", "1", registrytest.Bytes(80, 10))
			p := plan{world: r.World, allowPush: true, buffer: buffer, freshFor: time.Hour}
			if central {
				p.central = []string{r.Host() + " alice secret"}
			}
			h := p.build(t)
			pull := func() answer { return h.get(r, manifest("alice/app", "1"), basic, acceptAll) }
			pull().is(t, 200, old.Manifest)
			img := registrytest.NewImage(nil, registrytest.Bytes(81, 300<<10))
			for d, body := range img.Blobs {
				h.upload(r, "alice/app", d, body)
			}
			put := func(headers ...string) answer {
				return h.send(t.Context(), "PUT", r, manifest("alice/app", "1"), bytes.NewReader(img.Manifest), append(headers, "Content-Type: "+registrytest.TypeManifest)...)
			}
			r.Forget()
			if a := put(); a.status != 401 || a.header.Get("Www-Authenticate") == "" { // no login of the operator's is added
				t.Errorf("a push without a login: status %d, %v", a.status, a.header)
			}
			pull().is(t, 200, old.Manifest)
			put(basic).is(t, 201, nil).has(t, "Docker-Content-Digest: "+string(img.Digest), "Location: "+manifest("alice/app", string(img.Digest)))
			pull().is(t, 200, img.Manifest)
			h.ask(t.Context(), "DELETE", r, manifest("alice/app", "1"), basic).is(t, 202, nil)
			pull().is(t, 404, nil)
		}
	}
}

// upload pushes a blob in the ways of the specification: POST, PATCH without a length, PUT.
func (h *house) upload(r *registrytest.Registry, repo string, d oci.Digest, body []byte) {
	h.t.Helper()
	a := h.send(h.t.Context(), "POST", r, "/v2/"+repo+"/blobs/uploads/", nil, basic).is(h.t, 202, nil)
	location := a.header.Get("Location")
	if !strings.Contains(location, "?state=opaque") || !strings.HasPrefix(location, "/v2/") {
		h.t.Fatalf("Location %q is not as the registry spelled it", location)
	}
	a = h.send(h.t.Context(), "PATCH", r, location, io.MultiReader(bytes.NewReader(body)), basic).is(h.t, 202, nil)
	h.send(h.t.Context(), "PUT", r, a.header.Get("Location")+"&digest="+url.QueryEscape(string(d)), nil, basic).is(h.t, 201, nil).has(h.t, "Docker-Content-Digest: "+string(d))
}

// What an upload's Location says is opaque: hosts, ports, escapes and queries pass byte for byte, both ways.
func TestAnUploadsLocationIsOpaque(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	var mu sync.Mutex
	var seen []string
	locations := []string{
		"https://uploads.test:8443/x/y?sig=a%2Fb%3D&_state=AbC%2B", "/v2/library/app/blobs/uploads/a%3D%3D?_state=x%20y", "/artifacts-uploads/z?u=%7E", "relative?x=1;y=2",
	}
	r := newSite(t, world, "opaque.test", func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, req.Method+" "+req.RequestURI)
		w.Header().Set("Location", locations[(len(seen)-1)%len(locations)])
		w.Header().Set("Oci-Chunk-Min-Length", "5242880")
		w.WriteHeader(202)
	})
	h := plan{world: world, allowPush: true}.build(t)
	asked := []string{
		"POST /v2/library/app/blobs/uploads/?mount=sha256:x&from=a/b", "PATCH /v2/library/app/blobs/uploads/a%3D%3D?_state=x%20y;z=1",
		"PUT /v2/library/app/blobs/uploads/a%2Fb?digest=sha256%3Aabc", "DELETE /v2/library/app/blobs/uploads/a-b",
	}
	for i, line := range asked {
		method, path, _ := strings.Cut(line, " ")
		h.send(t.Context(), method, r, path, strings.NewReader("x")).is(t, 202, nil).has(t, "Location: "+locations[i], "OCI-Chunk-Min-Length: 5242880")
	}
	mu.Lock()
	defer mu.Unlock()
	for i := range asked {
		if seen[i] != asked[i] {
			t.Errorf("the registry saw %q, want %q", seen[i], asked[i])
		}
	}
}

// A push whose answer is lost may have moved the tag: that is asked at the next pull, and takes nothing away meanwhile.
func TestAPushWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: 100 * time.Hour, allowPush: true}, registrytest.Config{})
	x.r.Set(func(f *registrytest.Faults) { f.Registry.Down = true })
	if a := x.send(t.Context(), "PUT", x.r, manifest(repo, "1"), strings.NewReader("{}")); a.status < 500 {
		t.Errorf("status %d", a.status)
	}
	x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE")
	x.r.Set(func(f *registrytest.Faults) { f.Registry.Down = false })
	moved := x.retag()
	x.tag().is(t, 200, moved.Manifest)
}

// What was asked before a push is not the answer to who asks after it.
func TestAPullInFlightDoesNotOutliveAPush(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	old := r.PushImage(repo, "1", registrytest.Bytes(82, 10))
	moved := registrytest.NewImage(nil, registrytest.Bytes(83, 10))
	h := plan{world: r.World, freshFor: time.Hour, allowPush: true}.build(t)
	r.Set(func(f *registrytest.Faults) { f.Manifests, f.Body.StallAfter, f.Body.Times = true, 5, 1 })
	before := make(chan answer)
	go func() { before <- h.get(r, manifest(repo, "1"), acceptAll) }()
	r.Await(1, "GET", "/manifests/1")
	h.send(t.Context(), "PUT", r, manifest(repo, "1"), bytes.NewReader(moved.Manifest), "Content-Type: "+registrytest.TypeManifest).is(t, 201, nil)
	h.get(r, manifest(repo, "1"), acceptAll).is(t, 200, moved.Manifest)
	r.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
	(<-before).is(t, 200, old.Manifest)
	h.get(r, manifest(repo, "1"), acceptAll).is(t, 200, moved.Manifest)
}
