package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
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

// transports are the ways to ask hosts, each with its own connections, made when they are first used. There are a few for
// each host of the configuration.
type transports struct {
	cfg       Config
	insistent hostSet // hosts that insist on HTTP/2

	mu   sync.Mutex // guards ways
	ways map[way]versions
}

// versions are the transports of one way: HTTP/1.1, in which every blob has a connection of its own, and HTTP/2 for the
// hosts that insist.
type versions struct{ h1, h2 *http.Transport }

func newTransports(cfg Config) *transports {
	return &transports{cfg: cfg, insistent: hostSet{hosts: map[string]bool{}}, ways: map[way]versions{}}
}

// of returns the transports of a way.
func (t *transports) of(w way) versions {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.ways[w]
	if !ok {
		v = versions{h1: newTransport(t.cfg, w), h2: newTransport(t.cfg, w)}
		v.h1.Protocols = new(http.Protocols)
		v.h1.Protocols.SetHTTP1(true)
		v.h1.TLSClientConfig.NextProtos = []string{"http/1.1"} // a host that insists on HTTP/2 says so at once
		v.h2.Protocols = new(http.Protocols)
		v.h2.Protocols.SetHTTP1(true)
		v.h2.Protocols.SetHTTP2(true)
		t.ways[w] = v
	}
	return v
}

func newTransport(cfg Config, w way) *http.Transport {
	readTimeout := cfg.ReadTimeout
	if own := cfg.Hosts[w.host].ReadTimeout; own > 0 {
		readTimeout = own
	}
	t := &http.Transport{
		Proxy:                  nil, // never the process's environment: we might be the proxy it names
		DialContext:            w.dial(cfg),
		TLSClientConfig:        w.tls(cfg),
		TLSHandshakeTimeout:    cfg.HandshakeTimeout,
		DisableCompression:     true,
		MaxIdleConns:           idleTotal,
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        idleTimeout,
		ResponseHeaderTimeout:  readTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxResponseHeader,
		ReadBufferSize:         readBuffer,
		WriteBufferSize:        32 << 10,
	}
	w.through(t)
	return t
}

// roundTrip asks once, or once more in HTTP/2 where the host shows that it insists. It reports 426 as the host gave it
// where HTTP/2 may not be spoken. The registry of the request's context is whom it is asked for.
func (t *transports) roundTrip(req *http.Request, insecure bool) (*http.Response, error) {
	w := t.way(req.Context(), req.URL, insecure)
	if err := w.vet(t.cfg, req.URL); err != nil {
		return nil, err
	}
	resp, err := t.exchange(t.of(w), req)
	if err == nil {
		if err = w.parentTrouble(req.URL, resp); err != nil {
			discard(resp)
			return nil, err
		}
	}
	return resp, err
}

func (t *transports) exchange(v versions, req *http.Request) (*http.Response, error) {
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

func (t *transports) closeIdle() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range t.ways {
		v.h1.CloseIdleConnections()
		v.h2.CloseIdleConnections()
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
	req = req.WithContext(ctx)
	req.URL, req.Header = p.t.plain(req.URL), maps.Clone(req.Header)
	p.t.cfg.Via.Mark(ctx, req.Header)
	resp, err := p.t.roundTrip(req, false)
	if err != nil {
		cancel(err)
		return nil, err
	}
	if conn, ok := resp.Body.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &connBody{conn, cancel}
		return resp, nil
	}
	resp.Body = watchBody(ctx, cancel, resp.Body, p.t.readTimeout(ctx), nil)
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
