package registry_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// A crowd that waits for a tag which is not there yet costs one question in a few seconds; then the tag is there.
func TestAMissingTagIsRememberedForAMoment(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: time.Hour}, registrytest.Config{})
	for range 20 {
		a := x.get(x.r, manifest(repo, "2"), acceptAll).is(t, 404, nil)
		if !bytes.Contains(a.body, []byte("MANIFEST_UNKNOWN")) {
			t.Errorf("not the registry's words: %q", a.body)
		}
	}
	counts(t, x.r, map[string]int{"GET /manifests/2": 1})
	img := x.r.PushImage(repo, "2", registrytest.Bytes(60, 10)) // past the proxy, which cannot know
	x.get(x.r, manifest(repo, "2"), acceptAll, "Cache-Control: no-cache").is(t, 200, img.Manifest)
	x.r.Delete(repo, "2", "")
	x.get(x.r, manifest(repo, "3"), acceptAll).is(t, 404, nil)
	x.r.PushImage(repo, "3", registrytest.Bytes(61, 10))
	x.pass(5 * time.Second)
	x.get(x.r, manifest(repo, "3"), acceptAll).is(t, 200, nil)
}

// What one client was told is no answer to another.
func TestAMissingTagIsMissingForOneIdentity(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Login: registrytest.Basic, Users: map[string]string{"op": "secret", "me": "pw"}, Private: map[string][]string{"private/app": {"me"}}})
	img := r.PushImage("private/app", "1", registrytest.Bytes(62, 10))
	h := plan{world: r.World}.build(t)
	for range 3 {
		h.get(r, manifest("private/app", "1"), basicOf("op", "secret"), acceptAll)
		h.get(r, manifest("private/app", "1"), basicOf("me", "pw"), acceptAll).is(t, 200, img.Manifest)
	}
}

// What has been pushed through the proxy is there at once.
func TestAPushEndsWhatWasMissing(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{allowPush: true, freshFor: time.Hour}, registrytest.Config{})
	x.get(x.r, manifest(repo, "2"), acceptAll).is(t, 404, nil)
	x.get(x.r, manifest(repo, "2"), acceptAll).is(t, 404, nil)
	a := x.send(t.Context(), "PUT", x.r, manifest(repo, "2"), bytes.NewReader(x.old.Manifest), "Content-Type: "+registrytest.TypeManifest)
	if a.status != 201 {
		t.Fatalf("PUT: %d %q, %v", a.status, a.body, a.err)
	}
	x.get(x.r, manifest(repo, "2"), acceptAll).is(t, 200, x.old.Manifest)
}

func referrersOf(d oci.Digest, query string) string {
	return "/v2/" + repo + "/referrers/" + string(d) + query
}

// sign pushes a signature of a manifest.
func sign(r *registrytest.Registry, subject registrytest.Image, n int, artifactType string) oci.Digest {
	doc := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":%d},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":%d},"annotations":{"n":"%d"}}`,
		registrytest.TypeManifest, artifactType, subject.Config.Digest, subject.Config.Size, registrytest.TypeManifest, subject.Digest, subject.Size, n)
	return r.PutManifest(repo, "", registrytest.TypeManifest, []byte(doc))
}

// Lists of referrers are kept for a moment, each filter and page for itself, and stand in for a registry in trouble.
func TestReferrersAreKeptForAMoment(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{giveUp: 100 * time.Millisecond}, registrytest.Config{})
	sig := sign(x.r, x.old, 1, "application/x-signature")
	sbom := sign(x.r, x.old, 2, "application/x-sbom")
	all, filtered := referrersOf(x.old.Digest, ""), referrersOf(x.old.Digest, "?artifactType=application/x-signature")
	check := func(outcome string) {
		t.Helper()
		a := x.get(x.r, all).is(t, 200, nil).has(t, "X-Cache: "+outcome, "Content-Type: "+registrytest.TypeIndex, "OCI-Filters-Applied:")
		if !strings.Contains(string(a.body), string(sig)) || !strings.Contains(string(a.body), string(sbom)) {
			t.Errorf("%s: %s", all, a.body)
		}
		a = x.get(x.r, filtered).is(t, 200, nil).has(t, "X-Cache: "+outcome, "OCI-Filters-Applied: artifactType")
		if !strings.Contains(string(a.body), string(sig)) || strings.Contains(string(a.body), string(sbom)) {
			t.Errorf("%s: %s", filtered, a.body)
		}
	}
	check("MISS")
	check("HIT")
	counts(t, x.r, map[string]int{"GET /referrers/": 2})
	x.pass(15 * time.Second)
	check("MISS")
	late := sign(x.r, x.old, 3, "application/x-signature")
	if a := x.get(x.r, all, "Cache-Control: no-cache"); !strings.Contains(string(a.body), string(late)) {
		t.Errorf("no-cache: %s", a.body)
	}
	for name, outage := range outages() {
		x.r.Set(outage)
		x.pass(5 * time.Minute)
		if a := x.get(x.r, all).is(t, 200, nil).has(t, "X-Cache: STALE"); !strings.Contains(string(a.body), string(late)) {
			t.Errorf("%s: %s", name, a.body)
		}
		x.r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
		x.pass(7 * time.Hour) // past every cool-down
		x.get(x.r, all).is(t, 200, nil)
	}
}

// Clients of a registry without the list fall back to a tag, at once and each time.
func TestNoReferrers(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{}, registrytest.Config{Faults: registrytest.Faults{NoReferrers: true}})
	for range 3 {
		x.get(x.r, referrersOf(x.old.Digest, "")).is(t, 404, nil)
	}
	counts(t, x.r, map[string]int{"GET /referrers/": 1})
}

// A list that a client may see with its own login is for nobody else.
func TestOwnReferrersPassThrough(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Login: registrytest.Basic, Users: map[string]string{"me": "pw"}})
	img := r.PushImage(repo, "1", registrytest.Bytes(63, 10))
	sig := sign(r, img, 1, "application/x-signature")
	h := plan{world: r.World}.build(t)
	for range 2 {
		a := h.get(r, referrersOf(img.Digest, ""), basicOf("me", "pw")).is(t, 200, nil).has(t, "X-Cache: BYPASS")
		if !strings.Contains(string(a.body), string(sig)) {
			t.Errorf("own list: %s", a.body)
		}
		if a := h.get(r, referrersOf(img.Digest, "")); a.status != 401 || strings.Contains(string(a.body), string(sig)) {
			t.Errorf("a stranger: %d %s", a.status, a.body)
		}
		if a := h.get(r, referrersOf(img.Digest, ""), basicOf("me", "wrong")); a.status != 401 || strings.Contains(string(a.body), string(sig)) {
			t.Errorf("a wrong password: %d %s", a.status, a.body)
		}
	}
}
