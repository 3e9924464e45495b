package app_test

import (
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// effectRateLimitReserve: with hardly anything left of a limit, tags are served stale instead of being revalidated, unless
// nothing is reserved. What is left can be seen.
func effectRateLimitReserve(t *testing.T) {
	for reserve, want := range map[string]string{"20%": "STALE", "0": "REVALIDATED"} {
		reg := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{RateLimit: "100;w=21600", RateRemaining: "4;w=21600"}})
		reg.PushImage("app", "1", layers(1, 1, 1000)...)
		h := start(t, reg.World, "REGISTRIES="+reg.Host(), "RATE_LIMIT_RESERVE="+reserve)
		h.pull(reg, "app", "1").wantOutcomes(t, "MISS", "MISS")
		h.pull(reg, "app", "1").wantOutcomes(t, want, "HIT")
		if got := reg.Count("HEAD", "/manifests/"); (got == 0) != (want == "STALE") {
			t.Errorf("with %s reserved the registry saw %d HEADs", reserve, got)
		}
		limit := h.metric("rate_limit", "registry", reg.Host(), "credential", "anonymous", "source", "192.0.2.1")
		left := h.metric("rate_limit_remaining", "registry", reg.Host(), "credential", "anonymous", "source", "192.0.2.1")
		if limit != 100 || left != 4 {
			t.Errorf("the metrics say that %v of %v are left, want 4 of 100", left, limit)
		}
	}
}

// effectGiveUp: what is cached is served once a registry has hung for that long; while it lasts the registry may still
// answer.
func effectGiveUp(t *testing.T) {
	for giveUp, want := range map[string]string{"50ms": "STALE", "10m": "REVALIDATED"} {
		reg := registrytest.New(t, registrytest.Config{})
		reg.PushImage("app", "1", layers(1, 1, 1000)...)
		h := start(t, reg.World, "REGISTRIES="+reg.Host(), "UPSTREAM_GIVE_UP="+giveUp)
		h.pull(reg, "app", "1")
		reg.Forget()
		reg.Set(func(f *registrytest.Faults) { f.Registry.Hang = true })
		answered := make(chan answer, 1)
		go func() { // the test waits for it
			a, err := do(h.http, request(t, "GET", reg.URL()+"/v2/app/manifests/1", nil, "Accept", strings.Join(accepted, ", ")))
			a.cut = err
			answered <- a
		}()
		reg.Await(1, "HEAD", "/manifests/1")
		if want == "REVALIDATED" {
			reg.Set(func(f *registrytest.Faults) { f.Registry.Hang = false })
		}
		if a := <-answered; a.status != 200 || a.cut != nil || a.outcome() != want {
			t.Errorf("with %s a registry that hangs is answered for with %d %s, %v, want %s", giveUp, a.status, a.outcome(), a.cut, want)
		}
	}
}
