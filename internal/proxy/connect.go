package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/client"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
)

// handshakeTimeout bounds a client's TLS handshake after CONNECT.
const handshakeTimeout = 10 * time.Second

// established answers a CONNECT. RFC 9110, section 9.3.6: no Content-Length, no Transfer-Encoding.
const established = "HTTP/1.1 200 Connection established\r\n\r\n"

// connect answers CONNECT: it intercepts a registry and tunnels to any other host.
func (p *Proxy) connect(w http.ResponseWriter, r *http.Request) {
	rec := accesslog.NewRecord(r)
	authority := r.URL.Host
	if authority == "" || r.URL.Path != "" || len(authority) > 300 {
		p.refuse(w, r, rec, http.StatusBadRequest, "CONNECT: want host:port, such as registry.example.com:443")
		return
	}
	rec.Registry = strings.ToLower(authority)
	who, denial := p.cfg.Guard().Admit(r)
	if denial != nil {
		challenge(w, denial)
		p.refuse(w, r, rec, denial.Status, denial.Text)
		return
	}
	if reg, ok := p.cfg.Intercept(authority); ok {
		p.intercept(w, r, rec, reg, who)
		return
	}
	p.tunnel(w, r, rec)
}

// intercept terminates TLS as the registry and hands the connection to the inner server.
func (p *Proxy) intercept(w http.ResponseWriter, r *http.Request, rec *accesslog.Record, reg oci.Registry, who client.Who) {
	target := newTarget("https", r.URL.Host)
	conn, err := hijack(w)
	if err != nil {
		p.refuse(w, r, rec, http.StatusInternalServerError, "connection cannot be taken over")
		return
	}
	if !p.held.add(conn) {
		return
	}
	defer p.held.remove(conn)
	c, err := p.handshake(&clientConn{Conn: conn, registry: reg, target: target, who: who})
	if err != nil {
		p.metrics.handshakeFailures.Inc()
		rec.Kind, rec.Status, rec.Err = accesslog.KindTunnel, accesslog.StatusClientGone, handshakeText(err)
		p.cfg.AccessLog.Emit(r.Context(), rec)
		_ = conn.Close()
		return
	}
	p.metrics.connections.WithLabelValues("intercept").Inc()
	if !p.handed.give(c) {
		_ = c.Close()
	}
}

// handshake says that the connection is established and becomes the TLS server that the client asked for.
func (p *Proxy) handshake(conn *clientConn) (*tls.Conn, error) {
	if _, err := io.WriteString(conn, established); err != nil {
		return nil, err
	}
	c := tls.Server(conn, p.cfg.Authority.TLSConfig(conn.target.host))
	ctx, cancel := context.WithTimeout(p.ctx, handshakeTimeout)
	defer cancel()
	err := c.HandshakeContext(ctx)
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) && plain.Conn != nil {
		// As net/http does, for a client that sends plain HTTP: whatever it is, it may be able to read this.
		_, _ = fmt.Fprintf(plain.Conn, "HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\nwant TLS after CONNECT %s\n", conn.target)
	}
	return c, err
}

// handshakeText tells a client that does not trust our authority from one that speaks no TLS.
func handshakeText(err error) string {
	var alert tls.AlertError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &plain):
		return "TLS handshake: client sends something other than TLS after CONNECT"
	case errors.As(err, &alert):
		return "TLS handshake: client refuses our certificate: does it trust the proxy's authority (/ca.crt)? " + alert.Error()
	case strings.Contains(err.Error(), "remote error: tls: "):
		return "TLS handshake: client refuses our certificate: does it trust the proxy's authority (/ca.crt)? " + err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "TLS handshake: client does not finish it"
	}
	return "TLS handshake: " + err.Error()
}

// hijack takes the connection over before anything is answered, so that what the client sends next is all ours.
func hijack(w http.ResponseWriter) (*rawConn, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	return &rawConn{Conn: conn, early: buffered.Reader}, nil
}

// rawConn is a client's connection after CONNECT. What came with the CONNECT is read first.
type rawConn struct {
	net.Conn // a *sniffedConn, or a *tls.Conn above one
	early    *bufio.Reader
}

func (c *rawConn) Read(p []byte) (int, error) {
	if c.early != nil && c.early.Buffered() > 0 {
		return c.early.Read(p[:min(len(p), c.early.Buffered())])
	}
	c.early = nil
	return c.Conn.Read(p)
}

// bare is the connection without what we put on top, for when all that was read early has been taken: between two bare
// sockets the kernel copies by itself.
func (c *rawConn) bare() end {
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t
	}
	return c.Conn.(*sniffedConn).Conn.Conn.(*net.TCPConn)
}

// clientConn is below the TLS of an intercepted connection, and says whom it was opened for.
type clientConn struct {
	net.Conn // a *rawConn
	registry oci.Registry
	target   target
	who      client.Who
}

// refuse answers a CONNECT that leads nowhere.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, rec *accesslog.Record, status int, text string) {
	rec.Kind, rec.Status, rec.Err = accesslog.KindTunnel, status, text
	p.cfg.AccessLog.Emit(r.Context(), rec)
	w.Header().Set("Connection", "close")
	http.Error(w, text, status)
}

// dialFailure is what a client is told of a host that it cannot have.
func dialFailure(authority string, err error) (status int, text string) {
	var refused *dial.RefusedError
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &refused):
		return http.StatusForbidden, refused.Error()
	case errors.As(err, &dns) && !dns.IsTimeout:
		return http.StatusBadGateway, authority + ": name does not resolve"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, authority + ": no answer in time"
	}
	return http.StatusBadGateway, authority + ": connection failed"
}
