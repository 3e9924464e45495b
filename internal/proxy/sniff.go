package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"

	"container-registry-proxy/internal/gather"
)

// recordHandshake is the first byte of a TLS connection (RFC 8446, section 5.1). No HTTP request begins with it.
const recordHandshake = 0x16

// firstBytes is how much is read to see what a client speaks: mostly the whole of its first packet, so that looking
// costs no system call of its own.
const firstBytes = 4 << 10

// accept hands the connections of l to the outer server, those that begin a TLS handshake as the TLS server that we are
// under our own name. It returns when l is closed.
func (p *Proxy) accept(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return http.ErrServerClosed
		}
		if err != nil {
			// Too many open files, for one, goes by: a server that gave up would not.
			p.cfg.Log.Warn("client not accepted", "err", err)
			time.Sleep(acceptPause)
			continue
		}
		go p.sniff(gather.New(conn, p.cfg.Timeouts.Send)) // until the client's first byte, or its time-out
	}
}

const acceptPause = 50 * time.Millisecond

// sniff waits for a client's first bytes and hands it over.
func (p *Proxy) sniff(conn *gather.Conn) {
	if !p.silent.add(conn) {
		return
	}
	defer p.silent.remove(conn)
	c := &sniffedConn{Conn: conn, first: make([]byte, firstBytes)}
	if err := conn.SetReadDeadline(deadline(p.cfg.Timeouts.Header)); err != nil {
		_ = conn.Close()
		return
	}
	n, err := conn.Read(c.first)
	if n == 0 || err != nil {
		_ = conn.Close() // it came and went: there is nothing to say to it
		return
	}
	c.first = c.first[:n]
	var handed net.Conn = c
	if c.first[0] == recordHandshake && p.cfg.ServerTLS != nil {
		handed = tls.Server(c, p.cfg.ServerTLS)
	}
	if !p.accepted.give(handed) {
		_ = conn.Close()
	}
}

// deadline is the time after d, or none where d is 0.
func deadline(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

// sniffedConn is a client's connection, of which the first bytes have been read.
type sniffedConn struct {
	*gather.Conn
	first []byte
}

func (c *sniffedConn) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		if c.first = c.first[n:]; len(c.first) == 0 {
			c.first = nil
		}
		return n, nil
	}
	return c.Conn.Read(p)
}

// gatherer is the part of a client's connection that gathers writes, and nil where there is none that may: below a second
// layer of TLS nobody can tell where a response ends.
func gatherer(c net.Conn) *gather.Conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if s, ok := c.(*sniffedConn); ok {
		return s.Conn
	}
	return nil
}
