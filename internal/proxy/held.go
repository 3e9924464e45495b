package proxy

import (
	"context"
	"net"
	"sync"
)

// held are connections that net/http has given away and so neither waits for nor closes.
type held struct {
	mu       sync.Mutex // guards the fields that follow
	conns    map[net.Conn]struct{}
	draining bool
	empty    chan struct{} // closed when the last one is gone, while draining
}

// add takes a connection in. One that comes while draining is closed, and add returns false.
func (h *held) add(c net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		_ = c.Close()
		return false
	}
	if h.conns == nil {
		h.conns = map[net.Conn]struct{}{}
	}
	h.conns[c] = struct{}{}
	return true
}

func (h *held) remove(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, c)
	if h.draining && len(h.conns) == 0 && h.empty != nil {
		close(h.empty)
		h.empty = nil
	}
}

// drain takes no more, waits for those there are until ctx ends, and closes what is left.
func (h *held) drain(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	if len(h.conns) == 0 {
		h.mu.Unlock()
		return nil
	}
	empty := make(chan struct{})
	h.empty = empty
	h.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	h.cut()
	return context.Cause(ctx)
}

// cut takes no more and closes what there is.
func (h *held) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
	for c := range h.conns {
		_ = c.Close() // cut: that is what is wanted
	}
}

// handover is a listener whose connections somebody else has accepted.
type handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn), done: make(chan struct{})}
}

// give hands a connection over, or returns false where nobody takes any more.
func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.done:
		return false
	}
}

// Accept returns the next connection, or [net.ErrClosed].
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. It may be called again.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr is an address of no network.
func (h *handover) Addr() net.Addr { return &net.UnixAddr{Name: "intercepted", Net: "unix"} }
