// Package upstream is the client towards registries. Its invariant: whatever a registry answers, the bytes come from
// addresses the dialer vetted, over verified TLS, and a credential reaches only the scheme, host and port it is meant
// for. It follows redirects and answers challenges itself; it stores nothing and judges no content.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/until"
	"container-registry-proxy/internal/upstream/auth"
	"container-registry-proxy/internal/via"
)

// Config says how registries are reached. Only Dialer is required. Functions that take a host are given it in lower
// case, without port.
type Config struct {
	// Via is what this proxy calls itself in every request to a registry; empty is nothing.
	Via via.Name
	// Dialer opens every socket, and bounds each connect.
	Dialer *dial.Dialer
	// Logins finds the operator's logins; nil means those of Entries. See [auth.Config] for both.
	Logins  auth.Logins
	Entries []auth.Entry
	// Named reports whether the operator named the host; see [auth.Config].
	Named func(host string) bool
	// Pairs are token services that the operator trusts for a registry; see [auth.Config].
	Pairs map[oci.Registry][]string
	// TLS is the base of every TLS configuration, for its roots; nil means the system's. Verification cannot be switched
	// off here.
	TLS *tls.Config
	// Insecure reports whether certificates of the host go unverified; so do those of the hosts it redirects to, within
	// that request. Nil means no host.
	Insecure func(host string) bool
	// ReadTimeout bounds the wait for a response's header and between two reads of its body; 0 means 60 s. There is no
	// bound on the whole.
	ReadTimeout time.Duration
	// SendTimeout bounds each write of a request; 0 means 60 s.
	SendTimeout time.Duration
	// HandshakeTimeout bounds a TLS handshake; 0 means 10 s.
	HandshakeTimeout time.Duration
	// Hosts says how single hosts are asked, by host[:port] without the default port; Docker Hub's registry is
	// registry-1.docker.io.
	Hosts map[string]Host
	// Parent returns the proxy to ask at u through, where the host has none of its own; nil means none.
	Parent func(u *url.URL) *Parent
	// Limits bounds what a host[:port], as in Hosts, is asked at once; nil means the defaults. Requests that pass through [Client.Transport],
	// and those for tokens, are not counted.
	Limits func(authority string) Limits
	// RateLimits keeps requests within what registries allow; nil means one of its own.
	RateLimits *ratelimit.Watch
	// ForceHTTP11 never speaks HTTP/2, not even to a registry that insists (FORCE_UPSTREAM_HTTP_1_1).
	ForceHTTP11 bool
	// Registries bounds the registry label of metrics: the registry itself, or "other". Nil means always "other".
	Registries func(oci.Registry) string
	// Log is told what nobody is returned; nil means discard.
	Log *slog.Logger
	// Registerer receives the metrics; nil means none are kept.
	Registerer prometheus.Registerer
}

// Client asks registries. It is safe for concurrent use.
type Client struct {
	cfg        Config
	auth       *auth.Authorizer
	transports *transports
	hosts      *hosts
	metrics    *metrics
	resting    *until.Set[oci.Registry] // replaceable ones that were down a moment ago
}

// New returns a client for cfg.
func New(cfg Config) *Client {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.RateLimits == nil {
		cfg.RateLimits = ratelimit.New(ratelimit.Config{})
	}
	for _, d := range []struct {
		to    *time.Duration
		value time.Duration
	}{{&cfg.ReadTimeout, time.Minute}, {&cfg.SendTimeout, time.Minute}, {&cfg.HandshakeTimeout, 10 * time.Second}} {
		if *d.to <= 0 {
			*d.to = d.value
		}
	}
	c := &Client{cfg: cfg, transports: newTransports(cfg), hosts: newHosts(cfg.Limits), metrics: newMetrics(cfg), resting: until.New[oci.Registry](time.Now, len(cfg.Hosts))}
	c.auth = auth.New(auth.Config{
		Logins:     cfg.Logins,
		Entries:    cfg.Entries,
		Named:      cfg.Named,
		Pairs:      cfg.Pairs,
		Insecure:   cfg.exempt(),
		Transport:  tokenTransport{c.transports, false},
		Unverified: tokenTransport{c.transports, true},
		Observe:    func(reg oci.Registry, status int) { c.metrics.asked(reg, "token", status) },
		Limits:     cfg.RateLimits,
		Log:        cfg.Log,
		Registries: cfg.Registries,
		Registerer: cfg.Registerer,
	})
	return c
}

// Transport is the vetted transport alone, without credentials, redirects and retries, for requests that are passed
// through. Like any [http.RoundTripper] it does what the request says. Bodies fail when no byte comes for ReadTimeout,
// but for that of a 101, which is the connection.
func (c *Client) Transport() http.RoundTripper { return passThrough{c.transports} }

// Auth is the authorizer behind the client.
func (c *Client) Auth() *auth.Authorizer { return c.auth }

// CloseIdleConnections closes the connections that nobody is using.
func (c *Client) CloseIdleConnections() { c.transports.closeIdle() }

// maxAnswers bounds the challenges that are answered: the registry's, and one more with a login that has been replaced.
const maxAnswers = 2

// Do asks, follows redirects and answers the registry's challenge. A response that is not 2xx is a response, not an error; its
// body, which the caller closes, fails when no byte comes for ReadTimeout. Errors match [*UnreachableError] where the
// registry gave no usable answer, and [*dial.RefusedError] besides where it, or what it redirects to, may not be
// dialled; or they match the cause of ctx, or [ratelimit.ErrReserved]. While a registry is left alone after a 429 it
// is not asked: the response is that 429 again.
//
// A replaceable registry that was down is not asked for what has a digest, for a while.
func (c *Client) Do(ctx context.Context, req Request) (*http.Response, error) {
	if c.replaceable(&req) {
		return c.inTime(ctx, req)
	}
	return c.one(ctx, req)
}

// one is Do for one registry.
func (c *Client) one(ctx context.Context, req Request) (*http.Response, error) {
	first, err := req.url()
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", req.Registry, err)
	}
	first = c.transports.plain(first)
	ctx = oci.NewContext(ctx, req.Registry)
	req.Scope = req.scope()
	return c.limited(ctx, &req, func() (*http.Response, bool, error) { return c.do(ctx, req, first) })
}

// do is Do for a request whose turn it is. It reports whether the answer is the registry's own.
func (c *Client) do(ctx context.Context, req Request, first *url.URL) (resp *http.Response, home bool, err error) {
	sent, err := c.auth.Authorization(ctx, req.Registry, req.Scope, req.As)
	if err != nil {
		return nil, false, c.failure(ctx, &req, first, err)
	}
	for round := 0; ; round++ {
		resp, home, err = c.follow(ctx, &req, first, sent)
		final := round == maxAnswers || round > 0 && !auth.Renewable(sent)
		if err != nil || final || !home || !auth.Answerable(resp.StatusCode) || !req.repeatable() {
			c.learn(ctx, &req, sent, resp, home)
			return resp, home, err
		}
		fresh, err := c.auth.Answer(ctx, req.Registry, req.Scope, req.As, resp, sent)
		if errors.Is(err, auth.ErrNoAnswer) {
			c.cfg.Log.DebugContext(ctx, "refusal stands", "registry", string(req.Registry), "status", resp.StatusCode, "err", err)
			return resp, home, nil
		}
		discard(resp)
		if err != nil {
			return nil, false, c.failure(ctx, &req, first, err)
		}
		sent = fresh
	}
}

// learn tells the authorizer what became of what it had sent. A registry that redirects elsewhere has taken it.
func (c *Client) learn(ctx context.Context, req *Request, sent secret.String, resp *http.Response, home bool) {
	switch {
	case resp == nil:
	case home:
		c.auth.Learn(ctx, req.Registry, req.Scope, req.As, sent, resp.StatusCode)
	default:
		c.auth.Learn(ctx, req.Registry, req.Scope, req.As, sent, http.StatusTemporaryRedirect)
	}
}

// follow asks at u, and wherever that redirects to. home reports whether the answer comes from the origin of u, by no
// other way: once a chain has left it, nothing secret is sent again, even where the chain returns. Where the chain ends
// at a signed address that is not valid any more, it is followed from its beginning once more.
func (c *Client) follow(ctx context.Context, req *Request, u *url.URL, authorization secret.String) (resp *http.Response, home bool, err error) {
	resp, home, hops, err := c.chase(ctx, req, u, authorization)
	if err != nil || hops == 0 || !expired(resp) || !c.hosts.retry(u) {
		return resp, home, err
	}
	discard(resp)
	c.metrics.retried(req.Registry)
	resp, home, _, err = c.chase(ctx, req, u, authorization)
	return resp, home, err
}

// chase is follow for one chain. It reports how many redirects there were, too.
func (c *Client) chase(ctx context.Context, req *Request, u *url.URL, authorization secret.String) (resp *http.Response, home bool, hops int, err error) {
	start := origin(u)
	home = true
	for ; ; hops++ {
		resp, err = c.ask(ctx, req, u, home, authorization)
		if err == nil && !home && resp.StatusCode == http.StatusUnauthorized {
			resp, err = c.visit(ctx, req, u, resp)
		}
		if err != nil {
			return nil, home, hops, c.failure(ctx, req, u, err)
		}
		if req.NoFollow || !req.repeatable() || !isRedirect(resp) {
			return resp, home, hops, nil
		}
		discard(resp)
		next, err := redirectTarget(u, resp.Header.Get("Location"))
		if err == nil && hops == maxRedirects {
			err = safeError("redirects too often")
		}
		if err != nil {
			return nil, home, hops, c.failure(ctx, req, u, err)
		}
		if origin(next) != start {
			home, authorization = false, secret.String{}
		}
		u = next
	}
}

// visit answers a challenge of a redirect's target, as nobody: vanity names redirect to registries that want an
// anonymous token.
func (c *Client) visit(ctx context.Context, req *Request, u *url.URL, resp *http.Response) (*http.Response, error) {
	reg, err := registryOf(u)
	if err != nil {
		return resp, nil
	}
	header, err := c.auth.Visit(ctx, reg, resp)
	if err != nil {
		c.cfg.Log.DebugContext(ctx, "challenge of a redirect's target stands", "registry", string(req.Registry), "host", u.Host, "err", err)
		return resp, nil
	}
	discard(resp)
	return c.ask(ctx, req, u, false, header)
}

// ask makes one hop, again where the connection breaks before an answer or a gateway has none.
func (c *Client) ask(ctx context.Context, req *Request, u *url.URL, home bool, authorization secret.String) (*http.Response, error) {
	c.hosts.ask(u)
	for attempt := 0; ; attempt++ {
		resp, err := c.once(ctx, req, u, home, authorization)
		again := err != nil && transient(err) || err == nil && flapping(resp)
		if !again || attempt == maxRetries || !req.repeatable() || ctx.Err() != nil || !c.hosts.retry(u) {
			return resp, err
		}
		if resp != nil {
			discard(resp)
		}
		c.metrics.retried(req.Registry)
		if err := pause(ctx, attempt); err != nil {
			return nil, err
		}
	}
}

// once makes one request, when it is its turn.
func (c *Client) once(ctx context.Context, req *Request, u *url.URL, home bool, authorization secret.String) (*http.Response, error) {
	slot, waited, err := c.hosts.enter(ctx, u)
	if waited {
		c.metrics.waited(req.Registry)
	}
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, req, u, home, authorization, slot)
	if err != nil {
		slot.leave()
	}
	return resp, err
}

// send makes one request. Its response's body leaves the slot.
func (c *Client) send(ctx context.Context, req *Request, u *url.URL, home bool, authorization secret.String, slot *slot) (*http.Response, error) {
	within, cancel := context.WithCancelCause(ctx)
	httpReq, err := req.httpRequest(within, u, home, authorization)
	if err != nil {
		cancel(err)
		return nil, err
	}
	if home {
		c.cfg.Via.Mark(ctx, httpReq.Header)
	}
	resp, err := c.transports.roundTrip(httpReq, c.insecure(req.Registry))
	if err != nil {
		cancel(err)
		c.metrics.asked(req.Registry, kindOf(req.Method), 0)
		return nil, err
	}
	c.metrics.asked(req.Registry, kindOf(req.Method), resp.StatusCode)
	body := watchBody(within, cancel, resp.Body, c.transports.readTimeout(within), slot)
	body.received = c.metrics.received(req.Registry)
	body.fail = func(err error) error { return c.failure(ctx, req, u, err) }
	resp.Body = body
	return resp, nil
}

// insecure reports whether what a registry leads to goes unverified.
func (c *Client) insecure(reg oci.Registry) bool {
	if c.cfg.Hosts[reg.Authority()].Insecure {
		return true
	}
	return c.cfg.Insecure != nil && c.cfg.Insecure(oci.CanonicalHost((&url.URL{Host: reg.Authority()}).Hostname()))
}

// exempt reports whether logins may travel to a host over what is not verified TLS, because the operator said so.
func (c Config) exempt() func(host string) bool {
	exempt := map[string]bool{}
	for name, host := range c.Hosts {
		if host.Insecure || host.Plain {
			exempt[oci.CanonicalHost((&url.URL{Host: name}).Hostname())] = true
		}
	}
	return func(host string) bool { return exempt[host] || c.Insecure != nil && c.Insecure(host) }
}

// failure is what the caller of Do learns of err: the cause of its own context where that has ended.
func (c *Client) failure(ctx context.Context, req *Request, u *url.URL, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("ask %s: %w", req.Registry, context.Cause(ctx))
	}
	return &UnreachableError{Registry: req.Registry, Host: u.Host, Err: err}
}

// discard reads what little is left of a response that nobody wants, so that its connection can be used again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
}
