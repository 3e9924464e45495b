package app_test

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// fate is what has become of a registry's name: where it leads to by now, or that it leads nowhere.
type fate struct {
	*registrytest.World
	elsewhere atomic.Pointer[netip.Addr] // the unspecified address: nowhere
}

func (f *fate) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	to := f.elsewhere.Load()
	switch {
	case to == nil || host != "registry.test":
		return f.World.LookupNetIP(ctx, network, host)
	case to.IsUnspecified():
		return nil, &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
	}
	return []netip.Addr{*to}, nil
}

// lead has the name lead to another address, and the connections that there are break.
func (f *fate) lead(reg *registrytest.Registry, to netip.Addr) {
	f.elsewhere.Store(&to)
	reg.Set(func(f *registrytest.Faults) { f.Registry.Down = true })
}

// somewhere is an address of this machine's that nobody has.
func somewhere() netip.Addr {
	return netip.AddrFrom4([4]byte{127, 251, byte(rand.IntN(256)), byte(1 + rand.IntN(250))})
}

// outages are the ways in which a registry cannot be reached.
func outages() map[string]func(*testing.T, *fate, *registrytest.Registry) {
	portOf := func(t *testing.T, reg *registrytest.Registry) uint16 {
		_, port, err := net.SplitHostPort(reg.Host())
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		return uint16(n)
	}
	return map[string]func(*testing.T, *fate, *registrytest.Registry){
		"its name does not resolve": func(_ *testing.T, f *fate, reg *registrytest.Registry) { f.lead(reg, netip.IPv4Unspecified()) },
		"it refuses connections":    func(_ *testing.T, f *fate, reg *registrytest.Registry) { f.lead(reg, somewhere()) },
		"it is a black hole": func(t *testing.T, f *fate, reg *registrytest.Registry) {
			f.lead(reg, blackHoleAt(t, netip.AddrPortFrom(somewhere(), portOf(t, reg))).Addr())
		},
		"it resets connections": func(_ *testing.T, _ *fate, reg *registrytest.Registry) {
			reg.Set(func(f *registrytest.Faults) { f.Registry.Down = true })
		},
		"it answers 503": func(_ *testing.T, _ *fate, reg *registrytest.Registry) {
			reg.Set(func(f *registrytest.Faults) { f.Registry.Status = 503 })
		},
		"its certificate is bad": func(t *testing.T, f *fate, reg *registrytest.Registry) {
			at := netip.AddrPortFrom(somewhere(), portOf(t, reg))
			cert := registrytest.NewWorld(t).Certificate(time.Now().Add(time.Hour), "registry.test")
			serveTLS(t, at, cert, http.NotFoundHandler())
			f.lead(reg, at.Addr())
		},
		"it hangs once connected": func(_ *testing.T, _ *fate, reg *registrytest.Registry) {
			reg.Set(func(f *registrytest.Faults) { f.Registry.HangAccept = true })
		},
		"it hangs once asked": func(_ *testing.T, _ *fate, reg *registrytest.Registry) {
			reg.Set(func(f *registrytest.Faults) { f.Registry.Hang = true })
		},
	}
}

// Whatever befalls a registry, what is cached and open or central is pulled, by tag and by digest, from the proxy that
// cached it and from one that has been started since.
func TestPullsDuringAnOutage(t *testing.T) {
	t.Parallel()
	for name, outage := range outages() {
		for _, central := range []bool{false, true} {
			who := map[bool]string{false: ", open", true: ", central"}[central]
			t.Run(name+who, func(t *testing.T) {
				t.Parallel()
				testOutage(t, outage, central)
			})
		}
	}
}

func testOutage(t *testing.T, outage func(*testing.T, *fate, *registrytest.Registry), central bool) {
	cfg, environ := registrytest.Config{Login: registrytest.Bearer}, []string{"UPSTREAM_GIVE_UP=500ms"}
	if central {
		cfg.Users = map[string]string{"op": "secret"}
		cfg.Private = map[string][]string{"team/app": {"op"}}
	}
	reg := registrytest.New(t, cfg)
	environ = append(environ, "REGISTRIES="+reg.Host()+" auth.registry.test")
	if central {
		environ = append(environ, "AUTH_REGISTRIES_DELIMITER=;", "AUTH_REGISTRY_DELIMITER=|", "AUTH_REGISTRIES="+reg.Host()+"|op|secret")
	}
	img := reg.PushImage("team/app", "1", layers(1, 2, 100_000)...)
	f := &fate{World: reg.World}
	p := plan{world: reg.World, resolver: f, environ: environ}
	h := p.start(t)
	h.pull(reg, "team/app", "1").wantOutcomes(t, "MISS", "MISS")
	h.awaitStored(img)

	outage(t, f, reg)
	pullAll := func(h *house) {
		t.Helper()
		h.ask("GET", reg.URL()+"/v2/").expect(t, 200)
		h.pull(reg, "team/app", "1").wantOutcomes(t, "STALE", "HIT")
		h.pull(reg, "team/app", string(img.Digest)).wantOutcomes(t, "HIT", "HIT")
	}
	pullAll(h)
	if err := h.close(); err != nil {
		t.Fatal(err)
	}
	p.root = h.root
	again := p.start(t)
	start := time.Now()
	pullAll(again)
	t.Logf("%s: a ping and two pulls after a restart took %v", t.Name(), time.Since(start).Round(time.Millisecond))
}
