package app_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// accepted are the media types that container clients take.
var accepted = []string{
	registrytest.TypeManifest, registrytest.TypeIndex,
	"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
}

// pulled is an image as it came: the manifest first, then the configuration and the layers.
type pulled struct {
	desc    oci.Descriptor
	answers []answer
}

// outcomes are the outcomes of the requests in their order: "MISS MISS MISS".
func (p pulled) outcomes() string {
	var words []string
	for _, a := range p.answers {
		words = append(words, a.outcome())
	}
	return strings.Join(words, " ")
}

// wantOutcomes fails the test unless the manifest's outcome and those of all blobs are these.
func (p pulled) wantOutcomes(t testing.TB, manifest, blobs string) {
	t.Helper()
	want := manifest + strings.Repeat(" "+blobs, len(p.answers)-1)
	if got := p.outcomes(); got != want {
		t.Errorf("outcomes %q, want %q", got, want)
	}
}

// pull pulls an image as clients do, and checks every byte of it against its digest.
func (h *house) pull(reg *registrytest.Registry, repo, reference string, header ...string) pulled {
	h.t.Helper()
	return h.pullAt(reg.URL(), repo, reference, header...)
}

func (h *house) pullAt(base, repo, reference string, header ...string) pulled {
	h.t.Helper()
	get := func(kind, reference string, want oci.Digest) answer {
		h.t.Helper()
		more := append([]string{"Accept", strings.Join(accepted, ", ")}, header...)
		a := h.ask("GET", base+"/v2/"+repo+"/"+kind+"/"+reference, more...).expect(h.t, 200)
		if got := oci.FromBytes(a.body); want != "" && got != want {
			h.t.Fatalf("%s/%s came as %s", kind, reference, got)
		}
		return a
	}
	first := get("manifests", reference, "")
	var m struct {
		Config    oci.Descriptor   `json:"config"`
		Layers    []oci.Descriptor `json:"layers"`
		Manifests []oci.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(first.body, &m); err != nil {
		h.t.Fatalf("manifest %s: %v: %.300q", reference, err, first.body)
	}
	p := pulled{oci.Descriptor{MediaType: first.header.Get("Content-Type"), Digest: oci.FromBytes(first.body), Size: int64(len(first.body))}, []answer{first}}
	if len(m.Manifests) > 0 {
		inner := h.pullAt(base, repo, string(m.Manifests[0].Digest), header...)
		p.answers = append(p.answers, inner.answers...)
		return p
	}
	for _, desc := range append([]oci.Descriptor{m.Config}, m.Layers...) {
		p.answers = append(p.answers, get("blobs", string(desc.Digest), desc.Digest))
	}
	return p
}

// layers are n layers of size bytes each, other ones for each seed.
func layers(seed uint64, n, size int) [][]byte {
	var all [][]byte
	for i := range n {
		all = append(all, registrytest.Bytes(seed*1000+uint64(i), size))
	}
	return all
}

// blobFile is where a blob is once it has been committed.
func (h *house) blobFile(d oci.Digest) string {
	return filepath.Join(h.root, "cache", "blobs", d.Algorithm(), d.Hex()[:2], d.Hex())
}

// stored reports whether a blob has been committed.
func (h *house) stored(d oci.Digest) bool {
	_, err := os.Stat(h.blobFile(d))
	return err == nil
}

// awaitStored waits until images have been committed, which goes on for a moment after the last byte has been sent.
func (h *house) awaitStored(images ...registrytest.Image) {
	h.t.Helper()
	digests := map[oci.Digest]bool{}
	for _, img := range images {
		digests[img.Digest] = true
		for d := range img.Blobs {
			digests[d] = true
		}
	}
	eventually(h.t, "what was pulled is stored", func() bool {
		for d := range digests {
			if !h.stored(d) {
				return false
			}
		}
		return h.metric("store_blobs") >= float64(len(digests))
	})
}

// eventually waits until something holds that nobody announces.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v it does not hold that %s", patience, what)
		}
	}
}

// The main job, in short: first from upstream, then from the cache, in headers, in the log, in the metrics and at the
// registry.
func TestPullTwice(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t, registrytest.Config{})
	h := start(t, reg.World, "REGISTRIES="+reg.Host())
	img := reg.PushImage("library/app", "1.0", layers(1, 2, 100_000)...)

	first := h.pull(reg, "library/app", "1.0")
	first.wantOutcomes(t, "MISS", "MISS")
	if first.desc != img.Descriptor || !bytes.Equal(first.answers[0].body, img.Manifest) {
		t.Errorf("manifest came as %+v, want %+v byte for byte", first.desc, img.Descriptor)
	}
	if got := reg.Count("GET", "/v2/library/app/"); got != 4 {
		t.Errorf("the registry saw %d GETs, want one for each of manifest, configuration and two layers", got)
	}
	h.awaitStored(img)
	reg.Forget()
	h.pull(reg, "library/app", "1.0").wantOutcomes(t, "REVALIDATED", "HIT")
	h.pull(reg, "library/app", string(img.Digest)).wantOutcomes(t, "HIT", "HIT")
	if got := registrytest.Paths(reg.To("registry.test")); !slices.Equal(got, []string{"HEAD /v2/library/app/manifests/1.0"}) {
		t.Errorf("the second and third pull asked the registry %q, want one HEAD of the tag", got)
	}

	hit := first.answers[1].header
	for _, product := range []string{"X-Container-Registry-Proxy-Cache-", "X-Docker-Registry-Proxy-Cache-"} {
		if hit.Get(product+"Upstream-Status") != "MISS" || hit.Get(product+"Type") != "blob-by-digest" {
			t.Errorf("%s…: %q %q, want the originals' words", product, hit.Get(product+"Upstream-Status"), hit.Get(product+"Type"))
		}
	}
	var outcomes map[string]int
	// The client has an answer before its line is written.
	eventually(t, "each of the 12 answers has its line", func() bool {
		outcomes = map[string]int{}
		lines := 0
		for _, l := range h.log.requests(t) {
			if l.Registry == reg.Host() {
				outcomes[l.Kind+" "+l.Outcome]++
				lines++
			}
		}
		return lines >= 12
	})
	for key, want := range map[string]int{"manifest miss": 1, "manifest revalidated": 1, "manifest hit": 1, "blob miss": 3, "blob hit": 6} {
		if outcomes[key] != want {
			t.Errorf("the log has %d of %q, want %d: %v", outcomes[key], key, want, outcomes)
		}
		kind, outcome, _ := strings.Cut(key, " ")
		if got := h.metric("requests_total", "registry", reg.Host(), "kind", kind, "outcome", outcome, "status", "2xx"); got != float64(want) {
			t.Errorf("requests_total of %s is %v, want %d", key, got, want)
		}
	}
}
