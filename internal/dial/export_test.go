package dial

import (
	"context"
	"net"
	"net/netip"
)

// SetConnect replaces what opens a socket to a vetted address.
func (d *Dialer) SetConnect(connect func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)) {
	d.connect = connect
}
