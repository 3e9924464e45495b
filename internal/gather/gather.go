// Package gather has the connection that sits between TCP and TLS towards clients. Its invariant: bytes leave in the
// order in which they were written, none is held back once the response that they belong to has been written, and a
// write that makes no progress within the time-out fails. It knows nothing of TLS and HTTP.
//
// A TLS record carries at most 16 KiB and crypto/tls writes each on its own. While a body is sent the records are
// gathered and leave together: one system call for eight records, which takes two fifths off the CPU that a hit costs.
package gather

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// size is how much is gathered: more falls out of the core's cache before the kernel has copied it. Records carry a few
// bytes more than their payload, so a body's 128 KiB overflow it by little; those leave with what follows.
const size = 128<<10 + 4<<10

// direct is a write that is sent as it is where nothing waits before it: it is large enough, and copying it would cost
// more than the system call that it saves. A TLS record is smaller, a part of a body outside TLS is not.
const direct = size / 2

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, size); return &b }}

// Conn is a connection that gathers writes between Start and Stop. Its methods are safe for concurrent use; those on a
// nil *Conn do nothing.
type Conn struct {
	net.Conn
	timeout time.Duration // of one write; 0 means none

	mu     sync.Mutex // guards the fields that follow, and keeps writes in order: it is held while writing
	buffer *[]byte    // what is held back; nil while nothing is gathered
	err    error      // of the first write that failed: what follows would leave a hole
}

// New returns conn with writes that fail when they make no progress within timeout; 0 means never.
func New(conn net.Conn, timeout time.Duration) *Conn {
	return &Conn{Conn: conn, timeout: timeout}
}

// Start begins to hold writes back. Every Start is followed by a Stop.
func (c *Conn) Start() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buffer == nil {
		c.buffer = buffers.Get().(*[]byte)
	}
}

// Flush sends what is held back.
func (c *Conn) Flush() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush()
}

// Stop sends what is held back and ends the gathering.
func (c *Conn) Stop() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.flush()
	if c.buffer != nil {
		buffers.Put(c.buffer)
		c.buffer = nil
	}
	return err
}

// Write sends p, or holds it back until Flush, Stop, or until there is no room for more.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.buffer == nil {
		return c.write(p)
	}
	if len(*c.buffer)+len(p) > cap(*c.buffer) {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	if len(*c.buffer) == 0 && len(p) >= direct {
		return c.write(p)
	}
	*c.buffer = append(*c.buffer, p...)
	return len(p), nil
}

// Await sends what is held back and returns once the network takes more, so that a caller needs no buffer while a slow
// client keeps it waiting. It fails as a write does; where the connection does not tell, it returns at once.
func (c *Conn) Await() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.flush(); err != nil {
		return err
	}
	socket, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err == nil {
		err = c.allow()
	}
	if err == nil {
		err = raw.Write(writable)
	}
	c.err = err
	return err
}

// writable reports whether the socket takes more, or has something to say that the next write will find out.
func writable(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(poll, 0)
	return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
}

// allow gives the next write its time.
func (c *Conn) allow() error {
	if c.timeout == 0 {
		return nil
	}
	return c.Conn.SetWriteDeadline(time.Now().Add(c.timeout))
}

// flush is Flush. The caller holds mu.
func (c *Conn) flush() error {
	if c.err != nil || c.buffer == nil || len(*c.buffer) == 0 {
		return c.err
	}
	_, err := c.write(*c.buffer)
	*c.buffer = (*c.buffer)[:0]
	return err
}

// write sends all of p. The time-out begins anew whenever the client has taken some of it. The caller holds mu.
func (c *Conn) write(p []byte) (n int, err error) {
	for {
		if err := c.allow(); err != nil {
			c.err = err
			return n, err
		}
		m, err := c.Conn.Write(p[n:])
		n += m
		if err == nil || m == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			c.err = err
			return n, err
		}
	}
}

type connKey struct{}

// NewContext returns a context that carries the connection of a request.
func NewContext(ctx context.Context, c *Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// From returns the connection that r's response is written to, or nil where its writes must not be held back: the
// streams of an HTTP/2 connection share it, and each waits for frames that another's response would hold.
func From(r *http.Request) *Conn {
	if r.ProtoMajor != 1 {
		return nil
	}
	c, _ := r.Context().Value(connKey{}).(*Conn)
	return c
}
