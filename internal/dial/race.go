package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// stagger is how long an attempt has for itself before the next begins beside it (RFC 8305, section 5).
const stagger = 250 * time.Millisecond

// race dials addrs in order, the next one whenever the last has failed or taken longer than stagger, and returns the
// first connection. The others are cancelled, and closed if they were made all the same.
func (d *Dialer) race(ctx context.Context, network string, addrs []netip.AddrPort) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result)
	done := make(chan struct{})
	defer close(done)
	start := func(addr netip.AddrPort) {
		conn, err := d.connect(ctx, network, addr)
		select {
		case results <- result{conn, err}:
		case <-done:
			if conn != nil {
				conn.Close()
			}
		}
	}
	var errs []error
	next := time.NewTimer(0)
	defer next.Stop()
	for running := 0; ; {
		select {
		case <-next.C:
			if len(addrs) == 0 {
				continue
			}
			go start(addrs[0]) // ends by its result or by done
			addrs, running = addrs[1:], running+1
			next.Reset(stagger)
		case r := <-results:
			if r.err == nil {
				return r.conn, nil
			}
			errs, running = append(errs, r.err), running-1
			if running == 0 && len(addrs) == 0 {
				return nil, firstOf(errs)
			}
			next.Reset(0)
		}
	}
}

// firstOf prefers the error of the address that was preferred. The others are rarely more than its echo.
func firstOf(errs []error) error {
	for _, err := range errs {
		if !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errs[0]
}
