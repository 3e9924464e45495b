// Package proxy is the front door on :3128. It sorts what comes in: CONNECT to a registry is intercepted, CONNECT to
// anything else is a tunnel of bytes that nobody reads; plain HTTP for a registry is the registry's, for any other host it
// is forwarded; a request in origin form is for our own pages or, below /v2/, for us as a mirror. The port speaks HTTP and
// TLS: a client's first byte decides. Its invariant: what is asked inside a connection goes to the
// authority that the connection was opened for, and to nobody else, over the vetted dialer.
//
// Intercepted connections are served by an http.Server of their own, so that its time-outs and its shutdown concern
// them. Package proxy knows no registry API beyond the path that it begins with.
package proxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/gather"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/via"
)

// Authority has the certificates of intercepted hosts; it is package mitm.
type Authority interface {
	TLSConfig(host string) *tls.Config
}

// Dialer opens tunnels; it is package dial.
type Dialer interface {
	DialTunnel(ctx context.Context, authority string) (net.Conn, error)
	// Own reports whether host:port is one of our own listeners.
	Own(ctx context.Context, hostport string) bool
}

// Config has what Proxy needs. Log and Registerer may be nil.
type Config struct {
	// Intercept returns the registry behind a CONNECT authority, if it is one of those that are intercepted.
	Intercept func(authority string) (oci.Registry, bool)
	// InterceptPlain does so for the authority of a plain HTTP request.
	InterceptPlain func(authority string) (oci.Registry, bool)
	// Registry serves /v2/ and /v1/ of the registry that the request's context names.
	Registry http.Handler
	// Mirror returns the registry that a mirror request means which names none, and whether mirror requests may name any
	// registry, not only those that Intercept knows. Nil means Docker Hub, and no.
	Mirror func() (def oci.Registry, all bool)
	// ServerTLS is for clients that speak TLS to ourselves; nil means that none may.
	ServerTLS *tls.Config
	// Local serves our own pages.
	Local     http.Handler
	Authority Authority
	Dialer    Dialer
	// Upstream carries what is passed through: no credentials, no redirects, vetted addresses.
	Upstream http.RoundTripper
	// ClientToken answers a client's token request to an intercepted host with the operator's login, for those of the
	// repositories that it may pull, or returns nil where it is to be passed on as it came. Nil means that all are.
	ClientToken func(ctx context.Context, host oci.Registry, r *http.Request, may func(reg oci.Registry, repository string) bool) *http.Response
	// Guard says who may use the proxy at this moment; nil means everybody.
	Guard func() Guard
	// Saw is told whether an intercepted host has answered what was passed through; nil means that nobody is.
	Saw func(host oci.Registry, answered bool)
	// Via is what this proxy calls itself; what comes back to it is refused.
	Via via.Name
	// HTTP2 offers HTTP/2 on intercepted connections.
	HTTP2      bool
	Timeouts   Timeouts
	AccessLog  *accesslog.Log
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Timeouts bound single waits, never the whole of a transfer.
type Timeouts struct {
	Send       time.Duration // between two writes to a client
	Body       time.Duration // between two reads of a client's body
	Header     time.Duration // for the whole of a request's header
	KeepAlive  time.Duration // for a client's next request; 0 closes after each
	TunnelRead time.Duration // without a byte from either end of a tunnel
	TunnelSend time.Duration // for an end of a tunnel to take what the other one sent
}

// Proxy serves clients. It is safe for concurrent use.
type Proxy struct {
	cfg      Config
	outer    *http.Server
	inner    *http.Server
	accepted *handover // what clients have opened, for outer
	handed   *handover // what outer hands to inner
	held     held      // connections that no server knows of: tunnels, handshakes in progress
	silent   held      // those that have not said anything yet
	listener atomic.Pointer[net.Listener]
	rest     http.Handler
	metrics  *metrics
	ctx      context.Context // of requests that outlive their handlers' servers: upgraded connections
	end      context.CancelFunc
}

// Limits on what a client may send ahead of a body. Signed URLs reach a few kilobytes, tokens 16 KiB.
const (
	maxHeader  = 32 << 10
	maxFields  = 100
	maxRequest = 8 << 10 // of a request's target
)

// New returns a proxy that serves nobody yet.
func New(cfg Config) *Proxy {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Guard == nil {
		cfg.Guard = everybody
	}
	if cfg.Mirror == nil {
		cfg.Mirror = func() (oci.Registry, bool) { return oci.DockerHub, false }
	}
	p := &Proxy{cfg: cfg, accepted: newHandover(), handed: newHandover(), metrics: newMetrics(cfg.Registerer)}
	p.ctx, p.end = context.WithCancel(context.Background())
	p.rest = p.newRest()
	p.outer = p.newServer(p.front(cfg.AccessLog.Handler(p.bounded(p.loopless(http.HandlerFunc(p.plain))))))
	p.outer.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return gather.NewContext(ctx, gatherer(c))
	}
	p.inner = p.newServer(cfg.AccessLog.Handler(p.bounded(p.loopless(http.HandlerFunc(p.intercepted)))))
	p.inner.ConnContext = withInterception
	p.inner.Protocols.SetHTTP2(cfg.HTTP2)
	return p
}

// newServer returns a server with the limits and time-outs that all clients get.
func (p *Proxy) newServer(handler http.Handler) *http.Server {
	s := &http.Server{
		Handler:                      handler,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            p.cfg.Timeouts.Header,
		IdleTimeout:                  p.cfg.Timeouts.KeepAlive,
		MaxHeaderBytes:               maxHeader,
		Protocols:                    new(http.Protocols),
		BaseContext:                  func(net.Listener) context.Context { return p.ctx },
		ErrorLog:                     slog.NewLogLogger(p.cfg.Log.Handler(), slog.LevelDebug),
	}
	s.Protocols.SetHTTP1(true)
	s.SetKeepAlivesEnabled(p.cfg.Timeouts.KeepAlive > 0)
	return s
}

// Serve takes clients from l until Shutdown. It returns [http.ErrServerClosed] then.
func (p *Proxy) Serve(l net.Listener) error {
	p.listener.Store(&l)
	var g errgroup.Group
	g.Go(func() error { return p.inner.Serve(p.handed) })
	g.Go(func() error { return p.outer.Serve(p.accepted) })
	g.Go(func() error {
		defer p.handed.Close()
		defer p.accepted.Close()
		return p.accept(l)
	})
	return g.Wait()
}

// Shutdown takes no more clients, lets requests and tunnels finish until ctx ends, and then cuts them.
func (p *Proxy) Shutdown(ctx context.Context) error {
	defer p.end()
	if l := p.listener.Load(); l != nil {
		_ = (*l).Close() // whoever opened it may have closed it
	}
	var g errgroup.Group
	g.Go(func() error { return ended(p.outer, p.outer.Shutdown(ctx)) })
	g.Go(func() error { return ended(p.inner, p.inner.Shutdown(ctx)) })
	g.Go(func() error { return p.held.drain(ctx) })
	p.silent.cut()
	return g.Wait()
}

// ended closes what did not end in time.
func ended(s *http.Server, err error) error {
	if err != nil {
		_ = s.Close() // cut: that is what is wanted
	}
	return err
}

// front sorts a request by its form. A CONNECT never reaches a mux or the access log's handler: what becomes of it is
// recorded where it is known.
func (p *Proxy) front(plain http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			p.connect(w, r)
			return
		}
		plain.ServeHTTP(w, r)
	})
}
