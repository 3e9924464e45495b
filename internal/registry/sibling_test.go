package registry_test

import (
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// Another kind of client, which accepts other types, costs no pull of a tag that is cached, and is served during an
// outage; but never with what it does not accept.
func TestAnotherKindOfClientAsksForACachedTag(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: time.Hour, giveUp: 100 * time.Millisecond}, registrytest.Config{})
	x.get(x.r, manifest(repo, "1"), acceptImages).is(t, 200, x.old.Manifest).has(t, "X-Cache: REVALIDATED")
	x.get(x.r, manifest(repo, "1"), acceptImages).is(t, 200, x.old.Manifest).has(t, "X-Cache: HIT")
	counts(t, x.r, map[string]int{"GET /manifests/": 0, "HEAD /manifests/1": 1})
	x.r.Set(func(f *registrytest.Faults) { f.Registry.Down = true })
	x.get(x.r, manifest(repo, "1"), "Accept: */*").is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE")
	x.head(x.r, manifest(repo, "1"), "Accept: */*;q=0.5").is(t, 200, nil).has(t, "Docker-Content-Digest: "+string(x.old.Digest))
	if a := x.get(x.r, manifest(repo, "1"), "Accept: "+registrytest.TypeIndex); a.status != 503 {
		t.Errorf("a client that accepts an index alone got %d %s", a.status, a.header.Get("Content-Type"))
	}
}
