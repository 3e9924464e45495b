// Package dial opens every outbound socket of the process. Its invariant: a socket is opened only towards an address
// that was resolved once and then vetted, never towards a name that somebody resolves again. What is refused, and the
// setting that lifts the refusal, is said by [RefusedError]. It speaks no protocol above TCP.
package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// defaultTimeout bounds one connect where the configuration says nothing.
const defaultTimeout = 30 * time.Second

// Resolver looks names up. [*net.Resolver] is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Config says what may be dialled. The zero value refuses loopback, link-local, metadata, multicast, unspecified and
// broadcast addresses and those of this machine, and allows everything else.
type Config struct {
	// AllowedNetworks holds addresses that may be dialled although their kind is refused (ALLOWED_NETWORKS). Our own
	// listeners stay refused.
	AllowedNetworks []netip.Prefix
	// Named reports whether the operator named the host (lower case, without port). A named host may have any address
	// but one of our own listeners'. Nil means no host is named.
	Named func(host string) bool
	// Own lists our listeners, which are never dialled: a proxy that dials itself loops. An unspecified address stands
	// for every address of this machine. Nil means none.
	Own func() []netip.AddrPort
	// DisableIPv6 drops IPv6 answers (DISABLE_IPV6).
	DisableIPv6 bool
	// Timeout bounds each connect to one address; 0 means 30 s.
	Timeout time.Duration
	// Resolver answers name lookups; nil means [net.DefaultResolver].
	Resolver Resolver
	// RefusePrivate refuses private ranges and 100.64.0.0/10 too, unless AllowedNetworks or Named says otherwise.
	RefusePrivate bool
	// TunnelPorts are the ports that DialTunnel may reach (TUNNEL_PORTS); the zero value is DefaultTunnelPorts.
	TunnelPorts PortSet
	// Interfaces lists this machine's addresses; nil means [net.InterfaceAddrs].
	Interfaces func() ([]net.Addr, error)
}

// Dialer opens sockets. It is safe for concurrent use and holds no connections.
type Dialer struct {
	cfg  Config
	mine interfaces
	// connect opens one socket to a vetted address.
	connect func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)
}

// New returns a dialer that obeys cfg.
func New(cfg Config) *Dialer {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	if cfg.Interfaces == nil {
		cfg.Interfaces = net.InterfaceAddrs
	}
	if len(cfg.TunnelPorts.ranges) == 0 {
		cfg.TunnelPorts = defaultTunnelPorts()
	}
	socket := net.Dialer{Timeout: cfg.Timeout}
	return &Dialer{
		cfg:  cfg,
		mine: interfaces{list: cfg.Interfaces},
		connect: func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			return socket.DialContext(ctx, network, addr.String())
		},
	}
}

// DialContext connects to address, a "host:port", over "tcp", "tcp4" or "tcp6". The connection is a [*net.TCPConn].
// Errors match [*RefusedError] where every address is refused; any other is a *net.DNSError or a *net.OpError.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, net.UnknownNetworkError(network)
	}
	t, err := parseTarget(address)
	if err != nil {
		return nil, err
	}
	addrs, err := d.vetted(ctx, t)
	if err != nil {
		return nil, err
	}
	return d.race(ctx, network, addrs)
}

// Own reports whether address, a "host:port", is one of our own listeners.
func (d *Dialer) Own(ctx context.Context, address string) bool {
	t, err := parseTarget(address)
	if err != nil || d.cfg.Own == nil || !slices.ContainsFunc(d.cfg.Own(), func(l netip.AddrPort) bool { return l.Port() == t.port }) {
		return false
	}
	answers, err := d.answers(ctx, t)
	if err != nil {
		return false
	}
	mine, err := d.mine.addresses()
	if err != nil {
		return false
	}
	v := vetter{cfg: &d.cfg, mine: mine}
	return slices.ContainsFunc(answers, func(addr netip.Addr) bool { return v.own(addr.Unmap(), v.kind(addr.Unmap()), t.port) })
}

// DialTunnel connects to an authority that a client chose, as in CONNECT: DialContext, and only to TunnelPorts, and not
// to the ports of cluster control planes on private addresses unless TUNNEL_PORTS lists them one by one.
func (d *Dialer) DialTunnel(ctx context.Context, authority string) (net.Conn, error) {
	t, err := parseTarget(authority)
	if err != nil {
		return nil, err
	}
	if !d.cfg.TunnelPorts.Contains(t.port) {
		return nil, &RefusedError{Address: quote(authority), Reason: "port " + strconv.Itoa(int(t.port)), Setting: "TUNNEL_PORTS"}
	}
	addrs, err := d.vetted(ctx, t)
	if err != nil {
		return nil, err
	}
	if controlPorts[t.port] && !d.cfg.TunnelPorts.Lists(t.port) {
		addrs = slices.DeleteFunc(addrs, func(a netip.AddrPort) bool { return classify(a.Addr()) != public })
		if len(addrs) == 0 {
			return nil, &RefusedError{Address: quote(authority), Reason: fmt.Sprintf("port %d of a private address", t.port), Setting: fmt.Sprintf("%d in TUNNEL_PORTS", t.port)}
		}
	}
	return d.race(ctx, "tcp", addrs)
}

// controlPorts are those of etcd, Redis, the Kubernetes API server and the kubelet, which trust their network too much.
var controlPorts = map[uint16]bool{2379: true, 2380: true, 6379: true, 6443: true, 10250: true, 10255: true}
