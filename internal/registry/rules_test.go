package registry_test

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"container-registry-proxy/internal/freshness"
	"container-registry-proxy/internal/registrytest"
)

// What is deleted upstream is kept where a rule says so: tag, manifest, configuration and layers, for clients with and
// without a login of their own, and long after the registry was last seen to show it to everybody.
func TestWhatIsDeletedIsKeptByRule(t *testing.T) {
	t.Parallel()
	keep := []freshness.Rule{{Repository: "library/*", KeepMissing: true}}
	for name, p := range map[string]plan{"kept": {rules: keep}, "passed": {}} {
		x := pulled(t, p, registrytest.Config{Login: registrytest.Bearer, Users: map[string]string{"me": "pw"}})
		x.r.DeleteRepository(repo)
		for _, wait := range []time.Duration{0, 2 * time.Hour, 40 * 24 * time.Hour} {
			x.pass(wait)
			for _, login := range []string{"X-No: Login", basicOf("me", "pw")} {
				a := x.tag(login)
				if name == "passed" {
					if a.status != 404 && a.status != 401 { // of a login that the registry does not take
						t.Errorf("status %d of what is deleted", a.status)
					}
					continue
				}
				a.is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE")
				x.get(x.r, manifest(repo, string(x.old.Digest)), login, acceptAll).is(t, 200, x.old.Manifest)
				for _, layer := range x.old.Layers {
					x.get(x.r, blob(repo, layer.Digest), login).is(t, 200, x.old.Blobs[layer.Digest])
				}
			}
		}
		if name == "kept" { // and when it is there again it is what it is then
			moved := x.retag()
			x.pass(time.Hour)
			x.tag().is(t, 200, moved.Manifest)
		}
	}
}

// To be refused is not to be deleted: what was open once is not given out once its registry says no.
func TestWhatBecomesPrivateIsNotKept(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 403} {
		x := pulled(t, plan{rules: []freshness.Rule{{KeepMissing: true}}}, registrytest.Config{})
		x.r.Set(func(f *registrytest.Faults) { f.Registry.Status = status })
		x.pass(2 * time.Hour)
		x.tag().is(t, status, nil)
		x.get(x.r, manifest(repo, string(x.old.Digest)), acceptAll).is(t, status, nil)
		x.get(x.r, blob(repo, x.old.Layers[0].Digest)).is(t, status, nil)
	}
}

// A tag that must never be stale fails with its registry, rather than to be what it was.
func TestNeverStale(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: time.Minute, rules: []freshness.Rule{{Tag: "1", NeverStale: true}}}, registrytest.Config{})
	for _, status := range []int{429, 500, 503} {
		x.pass(20 * time.Minute)
		x.r.Set(func(f *registrytest.Faults) { f.Registry.Status = status })
		x.tag().is(t, status, nil)
	}
	x.r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{Down: true} })
	x.tag().is(t, 503, nil)
	x.r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
	x.pass(20 * time.Minute)
	x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: REVALIDATED")
	x.r.Set(func(f *registrytest.Faults) { f.Registry.Status = 500 })
	x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: HIT") // fresh is not stale
}

func TestNeverCached(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: time.Hour, rules: []freshness.Rule{{Tag: "dev*", NeverCache: true}}}, registrytest.Config{})
	for i := range 3 {
		img := x.r.PushImage(repo, "dev", registrytest.Bytes(uint64(40+i), 10))
		x.head(x.r, manifest(repo, "dev"), acceptAll).is(t, 200, nil).has(t, "Docker-Content-Digest: "+string(img.Digest))
		x.get(x.r, manifest(repo, "dev"), acceptAll).is(t, 200, img.Manifest).has(t, "X-Cache: BYPASS")
	}
	counts(t, x.r, map[string]int{"GET /manifests/dev": 3, "HEAD /manifests/dev": 3})
	x.r.Set(func(f *registrytest.Faults) { f.Registry.Down = true })
	x.get(x.r, manifest(repo, "dev"), acceptAll).is(t, 503, nil)
}

// What is stale is served at once, however slow its registry is, and what it is by now is known to the next.
func TestStaleWhileRevalidate(t *testing.T) {
	t.Parallel()
	fresh := 10 * time.Minute
	x := pulled(t, plan{rules: []freshness.Rule{{FreshFor: &fresh, StaleWhileRevalidate: 24 * time.Hour}}}, registrytest.Config{})
	moved := x.retag()
	x.pass(9 * time.Minute)
	x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: HIT")
	counts(t, x.r, map[string]int{" ": 0})

	x.r.Set(func(f *registrytest.Faults) { f.Registry.Hang = true })
	x.pass(2 * time.Minute)
	together(20, func(int) { x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE") })
	x.r.Await(1, "HEAD", "/manifests/1")
	x.r.Set(func(f *registrytest.Faults) { f.Registry.Hang = false })
	eventually(t, "the tag is revalidated", func() bool { return bytes.Equal(x.tag().is(t, 200, nil).body, moved.Manifest) })
	x.tag().is(t, 200, moved.Manifest).has(t, "X-Cache: HIT")
	if n := x.r.Count("HEAD", "/manifests/1"); n > 2 { // the one that hung is asked again
		t.Errorf("%d HEADs for 20 clients", n)
	}

	again := x.r.PushImage(repo, "1", registrytest.Bytes(50, 10))
	x.pass(26 * time.Hour) // too old to be served unasked
	x.tag().is(t, 200, again.Manifest)
}

// Nobody waits for a revalidation behind a client's back, so it leaves what is left of a limit to clients.
func TestBackgroundRequestsLeaveTheRestToClients(t *testing.T) {
	t.Parallel()
	fresh := 10 * time.Minute
	x := pulled(t, plan{rules: []freshness.Rule{{FreshFor: &fresh, StaleWhileRevalidate: 24 * time.Hour}}},
		registrytest.Config{Faults: registrytest.Faults{RateLimit: "100;w=21600", RateRemaining: "19;w=21600"}})
	x.pass(30 * time.Minute)
	for range 5 {
		x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE")
	}
	x.stop() // which waits for what goes on in the background
	counts(t, x.r, map[string]int{" ": 0})
	y := x.again()
	y.pass(24 * time.Hour)
	y.get(x.r, manifest(repo, "1"), acceptAll).is(t, 200, x.old.Manifest).has(t, "X-Cache: REVALIDATED")
}

func basicOf(user, password string) string {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return "Authorization: " + r.Header.Get("Authorization")
}
