package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// maxAddresses bounds how many answers of one name are tried.
const maxAddresses = 16

// settingsOfHost are the settings that lift the refusal of an address: by its network, or by the host's name.
const settingsOfHost = "ALLOWED_NETWORKS or REGISTRIES"

// vetted returns the addresses of t that may be dialled, in the order to try them, or why there are none.
func (d *Dialer) vetted(ctx context.Context, t target) ([]netip.AddrPort, error) {
	answers, err := d.answers(ctx, t)
	if err != nil {
		return nil, err
	}
	mine, err := d.mine.addresses()
	if err != nil {
		return nil, err
	}
	v := vetter{cfg: &d.cfg, mine: mine, named: d.cfg.Named != nil && d.cfg.Named(t.host)}
	var allowed []netip.AddrPort
	var refused error
	for _, addr := range answers {
		if err := v.vet(t, addr); err != nil {
			if refused == nil {
				refused = err
			}
			continue
		}
		allowed = append(allowed, netip.AddrPortFrom(addr.Unmap(), t.port))
	}
	if len(allowed) == 0 {
		return nil, refused
	}
	return interleave(allowed)[:min(len(allowed), maxAddresses)], nil
}

// answers looks t up once. It returns at least one address.
func (d *Dialer) answers(ctx context.Context, t target) ([]netip.Addr, error) {
	if t.addr.IsValid() {
		return []netip.Addr{t.addr}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	network := "ip"
	if d.cfg.DisableIPv6 {
		network = "ip4"
	}
	addrs, err := d.cfg.Resolver.LookupNetIP(ctx, network, t.host)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: t.host, IsNotFound: true}
	}
	return addrs, nil
}

// vetter judges the addresses of one name.
type vetter struct {
	cfg   *Config
	mine  map[netip.Addr]bool
	named bool
}

// vet returns nil if addr may be dialled on t's port.
func (v *vetter) vet(t target, addr netip.Addr) error {
	shown := fmt.Sprintf("%s (%s)", quote(t.asked), addr)
	if t.addr.IsValid() {
		shown = quote(t.asked)
	}
	if addr.Zone() != "" {
		return &RefusedError{Address: shown, Reason: "address with a zone"}
	}
	addr = addr.Unmap()
	if addr.Is6() && v.cfg.DisableIPv6 {
		return &RefusedError{Address: shown, Reason: "IPv6 is switched off", Setting: "DISABLE_IPV6=false"}
	}
	kind := v.kind(addr)
	if v.own(addr, kind, t.port) {
		return &RefusedError{Address: shown, Reason: "this proxy's own listener"}
	}
	if kind == public || kind == private && !v.cfg.RefusePrivate || v.named || v.inAllowedNetworks(addr) {
		return nil
	}
	return &RefusedError{Address: shown, Reason: kind.String(), Setting: settingsOfHost}
}

// kind classifies addr, which may be one of this machine's.
func (v *vetter) kind(addr netip.Addr) class {
	if carried, _ := carriedIPv4(addr); v.mine[addr] || v.mine[carried] {
		return ours
	}
	return classify(addr)
}

// own reports whether a connection to addr and port would reach one of our listeners.
func (v *vetter) own(addr netip.Addr, kind class, port uint16) bool {
	if v.cfg.Own == nil {
		return false
	}
	local := kind == ours || kind == loopback || kind == unspecified
	for _, l := range v.cfg.Own() {
		listen := l.Addr().Unmap().WithZone("")
		if l.Port() == port && (listen == addr || local && (!listen.IsValid() || listen.IsUnspecified() || addr.IsUnspecified())) {
			return true
		}
	}
	return false
}

func (v *vetter) inAllowedNetworks(addr netip.Addr) bool {
	for _, p := range v.cfg.AllowedNetworks {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// interleave alternates families, beginning with that of the first address, and keeps the order within each
// (RFC 8305, section 4).
func interleave(addrs []netip.AddrPort) []netip.AddrPort {
	var first, second, mixed []netip.AddrPort
	for _, a := range addrs {
		if a.Addr().Is4() == addrs[0].Addr().Is4() {
			first = append(first, a)
			continue
		}
		second = append(second, a)
	}
	for i := range first {
		mixed = append(mixed, first[i])
		if i < len(second) {
			mixed = append(mixed, second[i])
		}
	}
	return append(mixed, second[min(len(first), len(second)):]...)
}

// mineFor is how long the list of this machine's addresses is believed: long enough to cost nothing, short enough for
// an address that was added a moment ago.
const mineFor = 5 * time.Second

// interfaces remembers this machine's addresses for a moment.
type interfaces struct {
	list func() ([]net.Addr, error)
	last atomic.Pointer[snapshot]
}

type snapshot struct {
	at   time.Time
	mine map[netip.Addr]bool
}

// addresses fails when they cannot be listed: then nothing can be vetted.
func (i *interfaces) addresses() (map[netip.Addr]bool, error) {
	if s := i.last.Load(); s != nil && time.Since(s.at) < mineFor {
		return s.mine, nil
	}
	addrs, err := i.list()
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	s := &snapshot{at: time.Now(), mine: make(map[netip.Addr]bool, len(addrs))}
	for _, a := range addrs {
		if p, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(p.IP); ok {
				s.mine[addr.Unmap()] = true
			}
		}
	}
	i.last.Store(s)
	return s.mine, nil
}
