package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"container-registry-proxy/internal/accesslog"
)

// tunnel connects a client to a host that is not ours. The bytes are copied after it has returned: net/http keeps buffers
// and a deep stack for as long as a handler runs, which an idle tunnel needs no more.
func (p *Proxy) tunnel(w http.ResponseWriter, r *http.Request, rec *accesslog.Record) {
	// A client that has sent all it wants to send may close its half before it is connected.
	far, err := p.cfg.Dialer.DialTunnel(context.WithoutCancel(r.Context()), r.URL.Host)
	if err != nil {
		status, text := dialFailure(newTarget("https", r.URL.Host).String(), err)
		p.refuse(w, r, rec, status, text)
		return
	}
	conn, err := hijack(w)
	if err != nil {
		_ = far.Close()
		p.refuse(w, r, rec, http.StatusInternalServerError, "connection cannot be taken over")
		return
	}
	if !p.held.add(conn) {
		_ = errors.Join(conn.Close(), far.Close())
		return
	}
	go p.relay(conn, far.(*net.TCPConn), rec) // held waits for it, and closes what it copies
}

// relay copies bytes until both directions have ended.
func (p *Proxy) relay(conn *rawConn, far *net.TCPConn, rec *accesslog.Record) {
	defer p.held.remove(conn)
	defer conn.Close()
	defer far.Close()
	p.metrics.connections.WithLabelValues("tunnel").Inc()
	p.metrics.tunnels.Inc()
	defer p.metrics.tunnels.Dec()
	t := &tunnel{read: p.cfg.Timeouts.TunnelRead, send: p.cfg.Timeouts.TunnelSend}
	rec.Kind, rec.Status = accesslog.KindTunnel, http.StatusOK
	if err := t.run(conn, far); err != nil {
		rec.Err = err.Error()
	}
	rec.Bytes = t.bytes.Load()
	p.metrics.tunnelBytes.Add(float64(rec.Bytes))
	p.cfg.AccessLog.Emit(p.ctx, rec)
}

// tunnel is the progress of one.
type tunnel struct {
	read, send time.Duration
	bytes      atomic.Int64
	active     atomic.Int64 // unix nanoseconds of the last byte, in whichever direction
}

// run copies both ways. An end that has sent all it wants is half-closed towards the other, which may go on.
func (t *tunnel) run(client *rawConn, far *net.TCPConn) error {
	if _, err := io.WriteString(client, established); err != nil {
		return err
	}
	if err := t.sendEarly(client, far); err != nil {
		return err
	}
	near := client.bare()
	t.active.Store(time.Now().UnixNano())
	up := make(chan error, 1)
	go func() { up <- t.copy(far, near) }() // ends with the other direction, or soon after
	down := t.copy(near, far)
	return cause(<-up, down)
}

// cause is the first of the errors that is not the consequence of another: an error closes both ends.
func cause(errs ...error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	return nil
}

// sendEarly sends on what came with the CONNECT.
func (t *tunnel) sendEarly(client *rawConn, far *net.TCPConn) error {
	early := 0
	if client.early != nil {
		early = client.early.Buffered()
	}
	if s, ok := client.Conn.(*sniffedConn); ok {
		early += len(s.first)
	}
	n, err := io.CopyN(far, client, int64(early))
	t.bytes.Add(n)
	client.early = nil // its buffer is needed no more
	return err
}

// end is one end of a tunnel: a [*net.TCPConn], or a [*tls.Conn].
type end interface {
	net.Conn
	CloseWrite() error
}

// burst is how much is copied, without passing through this process (splice), before the time-outs begin anew.
const burst = 1 << 20

// errIdle ends a tunnel in which nothing has moved for too long.
var errIdle = errors.New("tunnel: no byte from either end within PROXY_CONNECT_READ_TIMEOUT")

// copy copies from src to dst until src has no more, then half-closes dst. An error closes both: what is missing cannot
// be made up for.
func (t *tunnel) copy(dst, src end) error {
	for {
		n, err := t.step(dst, src)
		switch {
		case err != nil:
			_ = dst.Close()
			_ = src.Close()
			return err
		case n == 0:
			_ = dst.CloseWrite() // the other direction may be over already
			return nil
		}
	}
}

// step copies up to one burst and returns 0 at the end of src. A time-out of dst is an error; one of src is, when the
// other direction has been idle as long.
func (t *tunnel) step(dst, src end) (int64, error) {
	for {
		// Each direction looks up often enough for the other one to know that it moves.
		lookUp := time.Now().Add(t.read / 4)
		// A write that begins just before src would time out still has all of its own time. So what times out before
		// the later of the two is src, and nothing is lost: splice loses what it has read where dst times out.
		stuckAt := lookUp.Add(t.send)
		if err := errors.Join(src.SetReadDeadline(lookUp), dst.SetWriteDeadline(stuckAt)); err != nil {
			return 0, err
		}
		var n int64
		err := awaitBytes(src)
		if err == nil {
			n, err = io.Copy(dst, io.LimitReader(src, burst))
		}
		now := time.Now()
		if n > 0 {
			t.bytes.Add(n)
			t.active.Store(now.UnixNano())
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		switch {
		case !now.Before(stuckAt):
			return n, errors.New("tunnel: an end takes nothing within PROXY_CONNECT_SEND_TIMEOUT")
		case n > 0:
			return n, nil
		case now.Sub(time.Unix(0, t.active.Load())) >= t.read:
			return 0, errIdle
		}
	}
}

// awaitBytes waits until src has bytes, an end or an error to give, for at most its read deadline. To splice takes a
// pipe, and would hold it for as long as it waits: two descriptors for each direction of an idle tunnel.
func awaitBytes(src end) error {
	tcp, ok := src.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		var peeked [1]byte
		_, _, err := syscall.Recvfrom(int(fd), peeked[:], syscall.MSG_PEEK)
		return !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR) // what else it is, the copy will find
	})
}
