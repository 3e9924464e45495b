package dial_test

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"container-registry-proxy/internal/dial"
)

// Whatever a stranger writes, a socket goes to no address but a public or private one.
func FuzzDialTunnel(f *testing.F) {
	for _, s := range spellings {
		f.Add(s + ":443")
	}
	f.Add("registry.example:443")
	f.Add("[64:ff9b::10.0.0.1]:443")
	resolver := &names{answers: map[string][]string{"registry.example": {"192.0.2.1"}}}
	f.Fuzz(func(t *testing.T, authority string) {
		d := dial.New(dial.Config{Resolver: resolver, Interfaces: machine})
		d.SetConnect(func(_ context.Context, _ string, addr netip.AddrPort) (net.Conn, error) {
			ip := addr.Addr()
			if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || ip.Is4In6() || ip.Zone() != "" {
				t.Errorf("%q led to %v", authority, addr)
			}
			return nil, net.ErrClosed
		})
		_, _ = d.DialTunnel(t.Context(), authority)
	})
}
