package dial_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"container-registry-proxy/internal/dial"
)

// names is a resolver that knows a few names, and counts what it is asked.
type names struct {
	answers map[string][]string
	asked   atomic.Int32
}

func (n *names) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	n.asked.Add(1)
	var addrs []netip.Addr
	for _, a := range n.answers[host] {
		addr := netip.MustParseAddr(a)
		if network == "ip4" && !addr.Unmap().Is4() {
			continue
		}
		addrs = append(addrs, addr)
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, nil
}

// machine is what the tests' machine has for addresses.
func machine() ([]net.Addr, error) {
	_, v4, _ := net.ParseCIDR("203.0.113.7/32")
	_, v6, _ := net.ParseCIDR("2001:db8::7/128")
	return []net.Addr{v4, v6}, nil
}

// sockets stands in for the network: it counts the sockets and remembers where they went.
type sockets struct{ dialled []string }

func (s *sockets) connect(_ context.Context, _ string, addr netip.AddrPort) (net.Conn, error) {
	s.dialled = append(s.dialled, addr.String())
	here, there := net.Pipe()
	there.Close()
	return here, nil
}

func newDialer(cfg dial.Config) (*dial.Dialer, *sockets) {
	if cfg.Interfaces == nil {
		cfg.Interfaces = machine
	}
	d, s := dial.New(cfg), new(sockets)
	d.SetConnect(s.connect)
	return d, s
}

// spellings are ways to write an address that no stranger may make us dial. Hosts with a letter in them are names that
// the resolver answers with the address behind the "=".
var spellings = []string{
	// Loopback.
	"127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "127.255.255.254", "0177.0.0.1", "0x7f.0.0.1", "0x7f.1", "0x7f000001",
	"0X7F000001", "2130706433", "017700000001", "127.0.0.01", "127.000.000.001", "00127.0.0.1", "127.0.0.0x1", "127.0.0.1.0",
	"[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::7f00:1]",
	"[::1%25lo]", "[::1%lo]", "[::1%1]", "[[::1]]", "::1", "localhost=127.0.0.1", "localhost.=127.0.0.1", "LOCALHOST=127.0.0.1",
	"six.example=::1", "mapped.example=::ffff:127.0.0.1",
	// What leads to this machine otherwise.
	"0", "0.0.0.0", "0.0.0.1", "00", "0x0", "000.000.000.000", "[::]", "[::0]", "[::ffff:0.0.0.0]", "[::ffff:0:0]", "any.example=0.0.0.0",
	"203.0.113.7", "[2001:db8::7]", "[::ffff:203.0.113.7]", "self.example=203.0.113.7", "[64:ff9b::203.0.113.7]",
	// Translators and relays.
	"[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::a9fe:a9fe]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]",
	"[2001:0:1:2:3:4:80ff:fffe]", "[::ffff:0:127.0.0.1]", "[2001:db8::5efe:127.0.0.1]", "[2001:db8::200:5efe:7f00:1]",
	// Metadata.
	"169.254.169.254", "169.254.169.254.", "2852039166", "0xa9fea9fe", "169.16689662", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]",
	"[fd00:ec2::254]", "[fd20:ce::254]", "[fd00:c1::a9fe:a9fe]", "[fd00:a9fe:a9fe::1]", "[fd00:100::100:200]", "[fd00:42::42]", "100.100.100.200", "168.63.129.16", "169.254.170.2", "192.0.0.192", "metadata.google.internal=169.254.169.254",
	"rebound.example=100.100.100.200",
	// Link-local, multicast, broadcast, reserved.
	"169.254.0.1", "[fe80::1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "224.0.0.1", "239.255.255.250", "[ff02::1]", "255.255.255.255", "240.0.0.1",
	// Not hosts at all.
	"１２７.0.0.1", "127。0。0。1", "ⓛocalhost", "a..example", ".example", "user@127.0.0.1", "127.0.0.1/", "127.0.0.1\\", "127.0.0.1 ", " 127.0.0.1",
	"exa mple", "ex\nample", "ex\x00ample", "", ".", "%31%32%37.0.0.1", "[127.0.0.1", "127.0.0.1]", "1.2.3.4.5",
}

func TestForbiddenAddressesMeetNoSocket(t *testing.T) {
	t.Parallel()
	if len(spellings) < 60 {
		t.Fatalf("%d spellings, want at least 60", len(spellings))
	}
	for _, spelling := range spellings {
		host, answer, named := strings.Cut(spelling, "=")
		resolver := &names{answers: map[string][]string{}}
		if named {
			resolver.answers[strings.TrimSuffix(strings.ToLower(host), ".")] = []string{answer}
		}
		d, s := newDialer(dial.Config{Resolver: resolver})
		for what, open := range map[string]func() (net.Conn, error){
			"DialContext": func() (net.Conn, error) { return d.DialContext(t.Context(), "tcp", host+":443") },
			"DialTunnel":  func() (net.Conn, error) { return d.DialTunnel(t.Context(), host+":443") },
		} {
			_, err := open()
			if _, ok := errors.AsType[*dial.RefusedError](err); !ok {
				t.Errorf("%s(%q) = %v, want a RefusedError", what, host, err)
			}
		}
		if len(s.dialled) != 0 {
			t.Errorf("%q: sockets to %v, want none", host, s.dialled)
		}
		if !named && resolver.asked.Load() != 0 {
			t.Errorf("%q: the resolver was asked %d times, want 0", host, resolver.asked.Load())
		}
	}
}

// The real thing: a listener on loopback sees no connection from any spelling of its own address.
func TestListenerOnLoopbackIsNotReached(t *testing.T) {
	t.Parallel()
	l := listen(t)
	var accepted atomic.Int32
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			conn.Close()
		}
	}()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	stranger := dial.New(dial.Config{})
	for _, host := range []string{"127.0.0.1", "127.1", "0", "0.0.0.0", "0x7f.1", "2130706433", "localhost", "localhost.", "[::ffff:127.0.0.1]", "[::]", "[64:ff9b::7f00:1]"} {
		if conn, err := stranger.DialContext(t.Context(), "tcp", host+":"+port); err == nil {
			conn.Close()
			t.Errorf("dial %s: connected", host)
		}
	}
	if n := accepted.Load(); n != 0 {
		t.Errorf("the listener saw %d connections, want 0", n)
	}
	friend := dial.New(dial.Config{AllowedNetworks: prefixes("127.0.0.0/8")})
	conn, err := friend.DialContext(t.Context(), "tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatalf("dial with ALLOWED_NETWORKS: %v", err)
	}
	defer conn.Close()
	if _, ok := conn.(*net.TCPConn); !ok {
		t.Errorf("connection is a %T, want a *net.TCPConn: splice needs one", conn)
	}
}

func TestWhatIsDialled(t *testing.T) {
	t.Parallel()
	own := func() []netip.AddrPort {
		return []netip.AddrPort{netip.MustParseAddrPort("[::]:3128"), netip.MustParseAddrPort("127.0.0.1:3129")}
	}
	named := func(host string) bool { return host == "reg.example" || host == "127.0.0.1" }
	loopback := prefixes("127.0.0.0/8", "::1/128")
	for _, tt := range []struct {
		name    string
		cfg     dial.Config
		answers []string // of reg.example or other.example
		address string
		want    []string // dialled; none means refused
		setting string   // that the refusal names
	}{
		{name: "a public address", answers: []string{"192.0.2.1"}, address: "other.example:443", want: []string{"192.0.2.1:443"}},
		{name: "a private address", answers: []string{"10.0.0.1"}, address: "other.example:5000", want: []string{"10.0.0.1:5000"}},
		{name: "a carrier-grade address", address: "100.64.0.1:443", want: []string{"100.64.0.1:443"}},
		{name: "a private address where private ones are refused", cfg: dial.Config{RefusePrivate: true}, address: "10.0.0.1:443", setting: "ALLOWED_NETWORKS or REGISTRIES"},
		{name: "a mapped private address likewise", cfg: dial.Config{RefusePrivate: true}, address: "[::ffff:10.0.0.1]:443", setting: "ALLOWED_NETWORKS or REGISTRIES"},
		{name: "a translated private address likewise", cfg: dial.Config{RefusePrivate: true}, address: "[64:ff9b::10.0.0.1]:443", setting: "ALLOWED_NETWORKS or REGISTRIES"},
		{name: "a private address in an allowed network", cfg: dial.Config{RefusePrivate: true, AllowedNetworks: prefixes("10.0.0.0/24")}, address: "10.0.0.1:443", want: []string{"10.0.0.1:443"}},
		{name: "a named host on a private address", cfg: dial.Config{RefusePrivate: true, Named: named}, answers: []string{"10.0.0.1"}, address: "reg.example:443", want: []string{"10.0.0.1:443"}},
		{name: "a named host on loopback", cfg: dial.Config{Named: named}, answers: []string{"127.0.0.1"}, address: "REG.example.:443", want: []string{"127.0.0.1:443"}},
		{name: "a named address", cfg: dial.Config{Named: named}, address: "127.0.0.1:443", want: []string{"127.0.0.1:443"}},
		{name: "an odd spelling of a named address", cfg: dial.Config{Named: named}, address: "127.1:443"},
		{name: "another host on loopback", cfg: dial.Config{Named: named}, answers: []string{"127.0.0.1"}, address: "other.example:443", setting: "ALLOWED_NETWORKS or REGISTRIES"},
		{name: "an allowed network", cfg: dial.Config{AllowedNetworks: loopback}, answers: []string{"127.0.0.9"}, address: "other.example:443", want: []string{"127.0.0.9:443"}},
		{name: "an allowed network in a mapped spelling", cfg: dial.Config{AllowedNetworks: loopback}, address: "[::ffff:127.0.0.9]:443", want: []string{"127.0.0.9:443"}},
		{name: "a zone in an allowed network", cfg: dial.Config{AllowedNetworks: prefixes("fe80::/10")}, address: "[fe80::1%eth0]:443"},
		{name: "our listener by an allowed address", cfg: dial.Config{AllowedNetworks: loopback, Own: own}, address: "127.0.0.1:3128"},
		{name: "our listener by this machine's address", cfg: dial.Config{AllowedNetworks: prefixes("0.0.0.0/0"), Own: own}, address: "203.0.113.7:3128"},
		{name: "our listener by the unspecified address", cfg: dial.Config{AllowedNetworks: prefixes("0.0.0.0/0"), Own: own}, address: "0.0.0.0:3129"},
		{name: "our listener by a named host", cfg: dial.Config{Named: named, Own: own}, answers: []string{"::1"}, address: "reg.example:3128"},
		{name: "another port of this machine, allowed", cfg: dial.Config{AllowedNetworks: loopback, Own: own}, address: "127.0.0.1:5000", want: []string{"127.0.0.1:5000"}},
		{name: "a listener's port elsewhere", cfg: dial.Config{Own: own}, address: "192.0.2.1:3128", want: []string{"192.0.2.1:3128"}},
		{name: "mixed answers: only the allowed are dialled", answers: []string{"127.0.0.1", "169.254.169.254", "192.0.2.1"}, address: "other.example:443", want: []string{"192.0.2.1:443"}},
		{name: "IPv6 switched off drops answers", cfg: dial.Config{DisableIPv6: true}, answers: []string{"2001:db8::1", "192.0.2.1"}, address: "other.example:443", want: []string{"192.0.2.1:443"}},
		{name: "IPv6 switched off refuses a literal", cfg: dial.Config{DisableIPv6: true}, address: "[2001:db8::1]:443", setting: "DISABLE_IPV6=false"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.cfg.Resolver = &names{answers: map[string][]string{"reg.example": tt.answers, "other.example": tt.answers}}
			d, s := newDialer(tt.cfg)
			_, err := d.DialContext(t.Context(), "tcp", tt.address)
			checkDialled(t, s, err, tt.want, tt.setting)
		})
	}
}

func TestTunnelPorts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		ports, authority string
		want             []string
		setting          string
	}{
		{"", "192.0.2.1:443", []string{"192.0.2.1:443"}, ""},
		{"", "192.0.2.1:80", []string{"192.0.2.1:80"}, ""},
		{"", "192.0.2.1:8443", []string{"192.0.2.1:8443"}, ""},
		{"", "192.0.2.1:22", nil, "TUNNEL_PORTS"},
		{"", "192.0.2.1:25", nil, "TUNNEL_PORTS"},
		{"443", "192.0.2.1:80", nil, "TUNNEL_PORTS"},
		{"", "192.0.2.1:6443", []string{"192.0.2.1:6443"}, ""},
		{"", "10.0.0.1:5432", []string{"10.0.0.1:5432"}, ""},
		{"", "10.0.0.1:2379", nil, "2379 in TUNNEL_PORTS"},
		{"", "10.0.0.1:2380", nil, "2380 in TUNNEL_PORTS"},
		{"", "192.168.1.1:6379", nil, "6379 in TUNNEL_PORTS"},
		{"", "172.16.0.1:6443", nil, "6443 in TUNNEL_PORTS"},
		{"", "100.64.0.1:10250", nil, "10250 in TUNNEL_PORTS"},
		{"", "[fd00::1]:10255", nil, "10255 in TUNNEL_PORTS"},
		{"", "[::ffff:10.0.0.1]:6443", nil, "6443 in TUNNEL_PORTS"},
		{"443 6443", "10.0.0.1:6443", []string{"10.0.0.1:6443"}, ""},
		{"443 6443-6443", "10.0.0.1:6443", []string{"10.0.0.1:6443"}, ""},
		{"1-65535", "10.0.0.1:6443", nil, "6443 in TUNNEL_PORTS"},
		{"1-65535", "127.0.0.1:22", nil, "ALLOWED_NETWORKS or REGISTRIES"},
	} {
		var cfg dial.Config
		if tt.ports != "" {
			ports, err := dial.ParsePortSet(tt.ports)
			if err != nil {
				t.Fatal(err)
			}
			cfg.TunnelPorts = ports
		}
		t.Run(tt.ports+" "+tt.authority, func(t *testing.T) {
			t.Parallel()
			d, s := newDialer(cfg)
			_, err := d.DialTunnel(t.Context(), tt.authority)
			checkDialled(t, s, err, tt.want, tt.setting)
		})
	}
}

// A name that flips from a public to a forbidden address between look-ups reaches the vetted address or none.
func TestRebindingReachesOnlyVettedAddresses(t *testing.T) {
	t.Parallel()
	flip := &flipping{}
	d, s := newDialer(dial.Config{Resolver: flip})
	for range 1000 {
		_, _ = d.DialContext(t.Context(), "tcp", "rebound.example:443")
	}
	if len(s.dialled) != 500 {
		t.Errorf("%d sockets, want 500: one for each public answer", len(s.dialled))
	}
	for _, addr := range s.dialled {
		if addr != "192.0.2.1:443" {
			t.Fatalf("dialled %s, want only the public answer", addr)
		}
	}
}

type flipping struct{ n int }

func (f *flipping) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	f.n++
	return []netip.Addr{netip.MustParseAddr([]string{"127.0.0.1", "192.0.2.1"}[f.n%2])}, nil
}

func TestUnlistableInterfacesRefuseEverything(t *testing.T) {
	t.Parallel()
	d, s := newDialer(dial.Config{Interfaces: func() ([]net.Addr, error) { return nil, errors.New("netlink is gone") }})
	if _, err := d.DialContext(t.Context(), "tcp", "192.0.2.1:443"); err == nil || len(s.dialled) != 0 {
		t.Errorf("dial = %v with sockets to %v, want an error and none", err, s.dialled)
	}
}

func TestUnknownNameIsADNSError(t *testing.T) {
	t.Parallel()
	d, _ := newDialer(dial.Config{Resolver: &names{}})
	_, err := d.DialContext(t.Context(), "tcp", "nowhere.example:443")
	if _, ok := errors.AsType[*net.DNSError](err); !ok {
		t.Errorf("err = %v, want a *net.DNSError", err)
	}
}

func TestPortSetSpelling(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"443": "443", "443 80 1024-65535": "443 80 1024-65535", " 443,80\t22\n": "443 80 22", "5-5": "5", "1-65535": "1-65535",
		"": "", " ": "", "0": "", "65536": "", "80-": "", "-80": "", "90-80": "", "http": "", "080": "", "+80": "", "1-2-3": "",
	} {
		set, err := dial.ParsePortSet(in)
		if got := set.String(); got != want || (err == nil) != (want != "") {
			t.Errorf("ParsePortSet(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func checkDialled(t *testing.T, s *sockets, err error, want []string, setting string) {
	t.Helper()
	if !slices.Equal(s.dialled, want) {
		t.Errorf("dialled %v, want %v (error: %v)", s.dialled, want, err)
	}
	if (err == nil) != (len(want) > 0) {
		t.Errorf("err = %v, want one only where nothing is dialled", err)
	}
	if err == nil {
		return
	}
	refused, ok := errors.AsType[*dial.RefusedError](err)
	if !ok || refused.Setting != setting || !strings.Contains(err.Error(), setting) {
		t.Errorf("err = %v, want a RefusedError that names %q", err, setting)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func prefixes(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}
