package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"container-registry-proxy/internal/oci"
)

const (
	// maxResponseHeader is generous: token and signed-URL headers beyond 100 kB were met.
	maxResponseHeader = 1 << 20
	// readBuffer lets a blob arrive in few system calls.
	readBuffer = 256 << 10
	// Idle connections: a pull opens a handful for each registry and CDN, and every connection kept saves a handshake.
	idlePerHost = 32
	idleTotal   = 256
	idleTimeout = 90 * time.Second
	// maxHTTP2Hosts bounds what we remember of registries that insist on HTTP/2.
	maxHTTP2Hosts = 1024
)

// transports are the ways to ask a host: HTTP/1.1, in which every blob has a connection of its own, and HTTP/2 for the
// hosts that insist; each with certificates verified or, for what the operator named insecure, not. They share no
// connections.
type transports struct {
	cfg        Config
	verified   versions
	unverified versions
	insistent  hostSet // hosts that insist on HTTP/2
}

// versions are the transports of one way to judge certificates.
type versions struct{ h1, h2 *http.Transport }

func newTransports(cfg Config) *transports {
	t := &transports{cfg: cfg, insistent: hostSet{hosts: map[string]bool{}}}
	for _, v := range []struct {
		to       *versions
		insecure bool
	}{{&t.verified, false}, {&t.unverified, true}} {
		v.to.h1 = newTransport(cfg, v.insecure)
		v.to.h1.Protocols = new(http.Protocols)
		v.to.h1.Protocols.SetHTTP1(true)
		v.to.h1.TLSClientConfig.NextProtos = []string{"http/1.1"} // a host that insists on HTTP/2 says so at once
		v.to.h2 = newTransport(cfg, v.insecure)
		v.to.h2.Protocols = new(http.Protocols)
		v.to.h2.Protocols.SetHTTP1(true)
		v.to.h2.Protocols.SetHTTP2(true)
	}
	return t
}

func newTransport(cfg Config, insecure bool) *http.Transport {
	config := &tls.Config{}
	if cfg.TLS != nil {
		config = cfg.TLS.Clone()
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	config.InsecureSkipVerify = insecure
	config.NextProtos = nil
	config.ClientSessionCache = tls.NewLRUClientSessionCache(256)
	return &http.Transport{
		Proxy: nil, // never the process's environment: we might be the proxy it names
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := cfg.Dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &sendConn{Conn: conn, timeout: cfg.SendTimeout}, nil
		},
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    cfg.HandshakeTimeout,
		DisableCompression:     true,
		MaxIdleConns:           idleTotal,
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        idleTimeout,
		ResponseHeaderTimeout:  cfg.ReadTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxResponseHeader,
		ReadBufferSize:         readBuffer,
		WriteBufferSize:        32 << 10,
	}
}

// roundTrip asks once, or once more in HTTP/2 where the host shows that it insists. It reports 426 as the host gave it
// where HTTP/2 may not be spoken.
func (t *transports) roundTrip(req *http.Request, insecure bool) (*http.Response, error) {
	v := t.verified
	if insecure || t.insecure(req) {
		v = t.unverified
	}
	if t.cfg.ForceHTTP11 {
		return v.h1.RoundTrip(req)
	}
	host := req.URL.Host
	if req.URL.Scheme == "https" && t.insistent.has(host) && req.Header.Get("Upgrade") == "" {
		return v.h2.RoundTrip(req)
	}
	resp, err := v.h1.RoundTrip(req)
	if req.URL.Scheme != "https" || !insists(resp, err) {
		return resp, err
	}
	t.insistent.add(host)
	if req.Body != nil && req.Body != http.NoBody {
		return resp, err // sent already; the next request knows better
	}
	if resp != nil {
		discard(resp)
	}
	return v.h2.RoundTrip(req)
}

func (t *transports) insecure(req *http.Request) bool {
	return t.cfg.Insecure != nil && t.cfg.Insecure(oci.CanonicalHost(req.URL.Hostname()))
}

func (t *transports) closeIdle() {
	for _, transport := range []*http.Transport{t.verified.h1, t.verified.h2, t.unverified.h1, t.unverified.h2} {
		transport.CloseIdleConnections()
	}
}

// insists reports whether the answer to a request in HTTP/1.1 says that only HTTP/2 is spoken: a 426, a handshake
// refused for want of a protocol, or HTTP/2 frames all the same.
func insists(resp *http.Response, err error) bool {
	if err == nil {
		return resp.StatusCode == http.StatusUpgradeRequired
	}
	if alert, ok := errors.AsType[tls.AlertError](err); ok && alert == 120 {
		return true
	}
	text := err.Error()
	return strings.Contains(text, "no application protocol") || strings.Contains(text, `malformed HTTP response "\x00\x00`)
}

// hostSet is a set of hosts that starts anew when it is full.
type hostSet struct {
	mu    sync.Mutex // guards hosts
	hosts map[string]bool
}

func (s *hostSet) has(host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts[host]
}

func (s *hostSet) add(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.hosts) >= maxHTTP2Hosts {
		clear(s.hosts)
	}
	s.hosts[host] = true
}

// sendConn bounds each write. It hides the other methods of the connection, so that no copy goes around Write.
type sendConn struct {
	net.Conn
	timeout time.Duration
}

func (c *sendConn) Write(p []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// tokenTransport carries token requests.
type tokenTransport struct {
	t        *transports
	insecure bool
}

func (t tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.t.roundTrip(req, t.insecure)
}

// passThrough is the transport alone: no credentials, no redirects, no retries.
type passThrough struct{ t *transports }

func (p passThrough) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := p.t.roundTrip(req.WithContext(ctx), false)
	if err != nil {
		cancel(err)
		return nil, err
	}
	if conn, ok := resp.Body.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &connBody{conn, cancel}
		return resp, nil
	}
	resp.Body = watchBody(ctx, cancel, resp.Body, p.t.cfg.ReadTimeout, nil)
	return resp, nil
}

// connBody is the body of a 101: the connection, whose pace is the two ends' affair.
type connBody struct {
	io.ReadWriteCloser
	cancel context.CancelCauseFunc
}

func (b *connBody) Close() error {
	defer b.cancel(context.Canceled)
	return b.ReadWriteCloser.Close()
}
