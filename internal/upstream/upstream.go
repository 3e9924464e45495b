// Package upstream is the client towards registries. Its invariant: whatever a registry answers, the bytes come from
// addresses the dialer vetted, over verified TLS, and a credential reaches only the scheme, host and port it is meant
// for. It follows redirects and answers challenges itself; it stores nothing and judges no content.
package upstream

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream/auth"
)

// Config says how registries are reached. Only Dialer is required.
type Config struct {
	// Dialer opens every socket.
	Dialer *dial.Dialer
	// Entries are the configured logins; see [auth.Config].
	Entries []auth.Entry
	// Named reports whether the operator named the host; see [auth.Config].
	Named func(host string) bool
	// TLS is the base of every TLS configuration, for its roots; nil means the system's. Verification cannot be switched
	// off here.
	TLS *tls.Config
	// Insecure reports whether certificates of the host go unverified; so do those of the hosts it redirects to, within
	// that request. Nil means no host.
	Insecure func(host string) bool
	// ReadTimeout bounds the wait for a response's header and between two reads of its body; 0 means 60 s. There is no
	// bound on the whole.
	ReadTimeout time.Duration
	// SendTimeout bounds the time between two writes of a request; 0 means 60 s.
	SendTimeout time.Duration
	// HandshakeTimeout bounds a TLS handshake; 0 means 10 s.
	HandshakeTimeout time.Duration
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
	cfg Config
}

// New returns a client for cfg.
func New(cfg Config) *Client { return &Client{cfg: cfg} }

// Request is one question to a registry.
type Request struct {
	// Method is GET or HEAD, or any other with NoFollow or a body; it stays what it is through redirects.
	Method   string
	Registry oci.Registry
	// Path is the escaped path and query, as in "/v2/library/alpine/manifests/3.20".
	Path string
	// Scope is the right that a token is asked for.
	Scope auth.Scope
	// As says with whose credentials.
	As auth.Identity
	// Header is sent as it is, but for Authorization, Cookie, Host and hop-by-hop fields. It is not changed.
	Header http.Header
	// Body is sent once: a request with a body is not repeated, follows no redirect and answers no challenge.
	Body io.Reader
	// ContentLength is the body's, or -1 where it is not known.
	ContentLength int64
	// NoFollow returns a redirect instead of following it.
	NoFollow bool
}

// Do asks, follows redirects and answers one challenge. A response that is not 2xx is a response, not an error; its
// body, which the caller closes, fails when no byte comes for ReadTimeout. Errors match [*UnreachableError] where the
// registry gave no answer, [*dial.RefusedError] where it, or what it redirects to, may not be dialled, or the cause of
// ctx.
func (c *Client) Do(ctx context.Context, req Request) (*http.Response, error) { panic("not yet") }

// Transport is the vetted transport alone, without credentials, redirects and retries, for requests that are passed
// through. Like any [http.RoundTripper] it does what the request says.
func (c *Client) Transport() http.RoundTripper { panic("not yet") }

// Auth is the authorizer behind the client.
func (c *Client) Auth() *auth.Authorizer { panic("not yet") }
