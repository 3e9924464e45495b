package app_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// names is a world's resolver with further names in it. It notes what it was asked.
type names struct {
	*registrytest.World
	further func(network, host string) []netip.Addr // nil for a name that it does not know

	mu    sync.Mutex // guards asked
	asked []string
}

func (n *names) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	n.asked = append(n.asked, host)
	n.mu.Unlock()
	if n.further != nil {
		if found := n.further(network, host); found != nil {
			return found, nil
		}
	}
	return n.World.LookupNetIP(ctx, network, host)
}

func (n *names) lookups() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked)
}

// greeter is a server that greets whoever connects, and returns its address. It takes until the end of the test.
func greeter(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.77.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "hello\n")
			_ = conn.Close()
		}
	}()
	return l.Addr().String()
}

// effectAllowedNetworks: what is on loopback is out of reach, but for the networks that are allowed.
func effectAllowedNetworks(t *testing.T) {
	world, address := registrytest.NewWorld(t), greeter(t)
	for setting, want := range map[string]int{"": 403, "127.77.0.0/16": 200, "10.0.0.0/8 127.77.0.1": 200, "127.78.0.0/16": 403} {
		h := start(t, world, "ALLOWED_NETWORKS="+setting)
		w, a := h.connect(address)
		if a.status != want {
			t.Errorf("ALLOWED_NETWORKS=%s: CONNECT %s = %d %q, want %d", setting, address, a.status, a.body, want)
			continue
		}
		if want != 200 {
			a.expect(t, want, "ALLOWED_NETWORKS")
			continue
		}
		if greeting, err := w.ReadString('\n'); greeting != "hello\n" {
			t.Errorf("ALLOWED_NETWORKS=%s: the far end said %q, %v", setting, greeting, err)
		}
	}
}

func effectTunnelPorts(t *testing.T) {
	world, address := registrytest.NewWorld(t), greeter(t)
	port := portOf(t, address)
	for setting, want := range map[string]int{"": 200, "443 80": 403, strconv.Itoa(port): 200, fmt.Sprintf("1-%d", port-1): 403, fmt.Sprintf("80,%d-%d", port-1, port): 200} {
		h := start(t, world, "TUNNEL_PORTS="+setting)
		if _, a := h.connect(address); a.status != want {
			t.Errorf("TUNNEL_PORTS=%q: CONNECT %s = %d %q, want %d", setting, address, a.status, a.body, want)
		} else if want != 200 {
			a.expect(t, want, "TUNNEL_PORTS")
		}
	}
	_, a := start(t, world).connect("registry.example:22")
	a.expect(t, 403, "TUNNEL_PORTS")
}

// effectRefusePrivate asks for a port that is refused on private addresses by another rule too, so that nothing leaves
// this machine: the setting is that which is named.
func effectRefusePrivate(t *testing.T) {
	world := registrytest.NewWorld(t)
	private := func(_, host string) []netip.Addr {
		if strings.HasSuffix(host, "inside.test") {
			return []netip.Addr{netip.MustParseAddr("10.255.0.1")}
		}
		return nil
	}
	build := func(environ ...string) *house {
		return plan{world: world, resolver: &names{World: world, further: private}, environ: environ}.start(t)
	}
	for _, authority := range []string{"inside.test:6443", "10.255.0.1:6443", "[64:ff9b::10.255.0.1]:6443"} {
		_, a := build().connect(authority)
		a.expect(t, 403, "6443 in TUNNEL_PORTS")
		_, a = build("REFUSE_PRIVATE=true").connect(authority)
		a.expect(t, 403, "private address", "ALLOWED_NETWORKS")
		_, a = build("REFUSE_PRIVATE=true", "ALLOWED_NETWORKS=10.0.0.0/8 64:ff9b::/96").connect(authority)
		a.expect(t, 403, "6443 in TUNNEL_PORTS")
	}
}

// effectDisableIPv6: a registry whose name has a dead IPv6 address beside the one it is at.
func effectDisableIPv6(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	onlyIPv6 := func(network, host string) []netip.Addr {
		if network == "ip4" || host != "registry.test" {
			return nil
		}
		return []netip.Addr{netip.MustParseAddr("::1")} // where nobody listens on its port
	}
	build := func(environ ...string) *house {
		return plan{world: reg.World, resolver: &names{World: reg.World, further: onlyIPv6}, environ: append(environ, "REGISTRIES="+reg.Host())}.start(t)
	}
	build().ask("GET", reg.URL()+"/v2/app/manifests/1").expect(t, 503, "UNAVAILABLE")
	h := build("DISABLE_IPV6=true")
	h.pull(reg, "app", "1").wantOutcomes(t, "MISS", "MISS")
	_, a := h.connect("[2001:db8::1]:443")
	a.expect(t, 403, "DISABLE_IPV6=false")
}

// effectForceHTTP11: a registry that insists on HTTP/2 is asked in it, unless that is forbidden.
func effectForceHTTP11(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{HTTP2: true, Faults: registrytest.Faults{Registry: registrytest.Outage{
		Status: http.StatusUpgradeRequired, Only: func(r *http.Request) bool { return r.ProtoMajor == 1 },
	}}})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	h := start(t, reg.World, "REGISTRIES="+reg.Host())
	h.pull(reg, "app", "1").wantOutcomes(t, "MISS", "MISS")
	reg.Forget()
	forced := start(t, reg.World, "REGISTRIES="+reg.Host(), "FORCE_UPSTREAM_HTTP_1_1=true")
	if got := forced.ask("GET", reg.URL()+"/v2/app/manifests/1").status; got < 400 {
		t.Errorf("a pull in HTTP/1.1 from a registry that refuses it = %d", got)
	}
	for _, r := range reg.Requests() {
		if r.Proto != "HTTP/1.1" {
			t.Errorf("%s %s was asked in %s", r.Method, r.Path, r.Proto)
		}
	}
}

// A name under a wildcard that is open at its end may be a stranger's, and lead where the stranger likes.
func TestAnOpenWildcardVouchesForNoAddress(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	for _, name := range []string{"registry.corp.test", "registry.stranger.test"} {
		registrytest.New(t, registrytest.Config{World: world, Name: name}).PushImage("team/app", "1", layers(1, 1, 1000)...)
	}
	authority := func(name string) string { return fmt.Sprintf("%s:%d", name, world.HostMap()[name].Port()) }
	ours, strange := authority("registry.corp.test"), authority("registry.stranger.test")
	h := start(t, world, "ALLOWED_NETWORKS=", "REGISTRIES=*.corp.test:"+ours[strings.LastIndexByte(ours, ':')+1:]+" registry.stranger.*:"+strange[strings.LastIndexByte(strange, ':')+1:])
	h.ask("GET", "https://"+ours+"/v2/team/app/manifests/1").expect(t, 200)
	h.ask("GET", "https://"+strange+"/v2/team/app/manifests/1").expect(t, 403, "loopback", "ALLOWED_NETWORKS")
}
