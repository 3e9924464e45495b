package registry_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// enough has a registry refuse some requests for ever.
func enough(x *tagged, only func(*http.Request) bool) {
	x.r.Set(func(f *registrytest.Faults) {
		f.Registry = registrytest.Outage{Status: 429, RetryAfter: "600", Header: http.Header{"Ratelimit-Limit": {"100;w=21600"}}, Only: only}
	})
}

func manifests(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }

// Fifty clients pull one tag at once: it costs at most one GET by tag, ever, and one HEAD for each period in which the
// tag is fresh. Then the registry has enough: all of them are served, it is asked nothing of that kind until it may be
// again, and the layers of a manifest that was given out before still come.
func TestFiftyPullsAtOnce(t *testing.T) {
	t.Parallel()
	const clients = 50
	r := registrytest.New(t, registrytest.Config{})
	img := r.PushImage(repo, "1", registrytest.Bytes(30, 64<<10), registrytest.Bytes(31, 64<<10))
	x := &tagged{house: plan{world: r.World, freshFor: time.Hour}.build(t), r: r, old: img}
	herd := func() {
		t.Helper()
		together(clients, func(int) { x.tag().is(t, 200, img.Manifest) })
	}
	herd()
	counts(t, r, map[string]int{"GET /manifests/1": 1, "HEAD /manifests/1": 0, "GET /manifests/sha256": 0})
	for period := 1; period <= 3; period++ {
		x.pass(time.Hour)
		herd()
		counts(t, r, map[string]int{"GET /manifests/": 1, "HEAD /manifests/1": period})
	}

	enough(x, func(r *http.Request) bool { return r.Method == "HEAD" || manifests(r) })
	x.pass(time.Hour)
	r.Forget()
	for range 3 {
		herd()
		x.pass(3 * time.Minute) // inside of the cool-down, all of it
	}
	counts(t, r, map[string]int{"HEAD /manifests/1": 1, "GET ": 0})
	for _, layer := range img.Layers {
		together(clients, func(int) { x.get(r, blob(repo, layer.Digest)).is(t, 200, img.Blobs[layer.Digest]) })
	}
	for _, layer := range img.Layers {
		counts(t, r, map[string]int{"GET /blobs/" + string(layer.Digest): 1})
	}
	r.Forget()
	x.pass(time.Hour) // beyond it: one probe, and again nothing
	herd()
	herd()
	counts(t, r, map[string]int{"HEAD /manifests/1": 1, "GET ": 0})
}

// What is not cached gets what the registry said, with the time that is left, and the registry is not asked again.
func TestAnUncachedPullDuringACoolDown(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{}, registrytest.Config{})
	x.r.PushImage(repo, "2", registrytest.Bytes(32, 10))
	enough(x, manifests)
	first := x.get(x.r, manifest(repo, "2"), acceptAll).is(t, 429, nil).has(t, "Retry-After: 600")
	x.pass(100 * time.Second)
	again := x.get(x.r, manifest(repo, "other"), acceptAll).is(t, 429, first.body).has(t, "RateLimit-Limit: 100;w=21600", "Content-Type: application/json")
	if left := again.header.Get("Retry-After"); left != "500" && left != "499" {
		t.Errorf("after 100 s of 600 s Retry-After is %s", left)
	}
	if !bytes.Contains(again.body, []byte("TOOMANYREQUESTS")) {
		t.Errorf("body %q", again.body)
	}
	counts(t, x.r, map[string]int{"GET /manifests/": 1})
	x.house = x.again()
	x.get(x.r, manifest(repo, "2"), acceptAll).is(t, 429, first.body) // a restart is no way around it
	counts(t, x.r, map[string]int{"GET /manifests/": 1})
	x.r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
	x.pass(10 * time.Minute)
	x.get(x.r, manifest(repo, "2"), acceptAll).is(t, 200, nil)
}

// A token service that has enough is a registry that has: cached content is served, and the pull of what is not cached
// gets a 429 that clients understand.
func TestATokenServiceThatLimits(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{}, registrytest.Config{Login: registrytest.Bearer})
	x.r.RevokeTokens()
	x.r.Set(func(f *registrytest.Faults) {
		f.Token = registrytest.Outage{Status: 429, RetryAfter: "300", Text: "who are you to ask"}
	})
	for range 3 {
		x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE")
		a := x.get(x.r, manifest(repo, "2"), acceptAll).is(t, 429, nil).has(t, "Content-Type: application/json")
		if a.header.Get("Retry-After") == "" || !bytes.Contains(a.body, []byte("TOOMANYREQUESTS")) || bytes.Contains(a.body, []byte("who are you")) {
			t.Errorf("%v %q", a.header, a.body)
		}
	}
	if n := len(x.r.To("auth.registry.test")); n != 1 {
		t.Errorf("the token service was asked %d times in its cool-down, want once", n)
	}
	x.r.Set(func(f *registrytest.Faults) { f.Token = registrytest.Outage{} })
	x.pass(5 * time.Minute)
	x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: REVALIDATED")
}

// What the operator's account may not have any more, nobody in particular still may: limits are of accounts.
func TestALimitIsOfOneCredential(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Login: registrytest.Bearer, Users: map[string]string{"op": "secret"}, Private: map[string][]string{"private/app": {"op"}}})
	open, private := r.PushImage(repo, "1", registrytest.Bytes(33, 10)), r.PushImage("private/app", "1", registrytest.Bytes(34, 10))
	h := plan{world: r.World, central: []string{r.Host() + " op secret"}}.build(t)
	other := plan{world: r.World}.build(t)
	r.Set(func(f *registrytest.Faults) {
		f.Registry = registrytest.Outage{Status: 429, RetryAfter: "60", Only: func(req *http.Request) bool { return manifests(req) && strings.Contains(req.URL.Path, "private") }}
	})
	h.get(r, manifest("private/app", "1"), acceptAll).is(t, 429, nil)
	h.get(r, manifest(repo, "1"), acceptAll).is(t, 429, nil) // the same account
	other.get(r, manifest(repo, "1"), acceptAll).is(t, 200, open.Manifest)
	r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
	h.pass(time.Minute)
	h.get(r, manifest("private/app", "1"), acceptAll).is(t, 200, private.Manifest)
}

// When little is left of a limit, what is stale is served as it is; what is not cached is fetched for as long as the
// registry lets us.
func TestLittleLeftOfALimit(t *testing.T) {
	t.Parallel()
	for remaining, want := range map[string]string{"6;w=21600": "REVALIDATED", "4;w=21600": "STALE"} {
		x := pulled(t, plan{}, registrytest.Config{Faults: registrytest.Faults{RateLimit: "100;w=21600", RateRemaining: remaining}})
		x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: "+want)
		more := x.r.PushImage(repo, fmt.Sprint("more"), registrytest.Bytes(35, 10))
		x.get(x.r, manifest(repo, "more"), acceptAll).is(t, 200, more.Manifest).has(t, "X-Cache: MISS")
		x.pass(7 * time.Hour)
		x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: REVALIDATED")
	}
}
