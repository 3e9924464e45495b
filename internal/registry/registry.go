// Package registry is the HTTP surface of the distribution API: a request for /v2/ of some registry becomes a call of
// package cache, and what that returns becomes a response. Its invariant: this is the one place where errors become a
// status and an OCI error document, and a response whose bytes turn out wrong is cut, never completed.
package registry

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// Puller answers pulls; it is package cache.
type Puller interface {
	Blob(ctx context.Context, p cache.Pull) (*cache.Content, error)
	Manifest(ctx context.Context, p cache.Pull) (*cache.Content, error)
	Referrers(ctx context.Context, p cache.Pull, query string) (*cache.List, error)
	Pushed(reg oci.Registry, p oci.Path)
	Doubt(reg oci.Registry, p oci.Path)
}

// Upstream is the client towards registries, for what is not cached.
type Upstream interface {
	Do(ctx context.Context, req upstream.Request) (*http.Response, error)
	Transport() http.RoundTripper
}

// Config has what Handler needs; Log may be nil.
type Config struct {
	Cache    Puller
	Upstream Upstream
	// HasCentral reports whether the operator configured credentials for a repository of the registry, or with "" for all
	// of it.
	HasCentral func(reg oci.Registry, repository string) bool
	// Trust knows which registries cannot be reached, how they challenge, and whose logins they took.
	Trust Trust
	// Rules are the operator's at this moment; nil means that all of them are off.
	Rules func() Rules
	// Authorization returns the header for a scope and an identity, for the operator's pushes; it is package auth's.
	Authorization func(ctx context.Context, reg oci.Registry, scope auth.Scope, id auth.Identity) (secret.String, error)
	// GiveUp is how long a ping waits for a registry that hangs; 0 means 3 s.
	GiveUp time.Duration
	Log    *slog.Logger
}

// Trust is package access.
type Trust interface {
	Saw(host oci.Registry, answered bool)
	Hung(reg oci.Registry)
	Unreachable(reg oci.Registry) bool
	Challenged(reg oci.Registry, resp *http.Response)
	Challenge(reg oci.Registry) []string
	Welcomed(caller access.Caller, reg oci.Registry)
	Known(caller access.Caller, reg oci.Registry) bool
}

// Rules are what the operator allows; they may change while the handler serves.
type Rules struct {
	// AllowPush passes pushes through, with the client's own Authorization and nothing else (ALLOW_PUSH).
	AllowPush bool
	// AllowPushWithOwnAuth does so for those that bring one (ALLOW_PUSH_WITH_OWN_AUTH).
	AllowPushWithOwnAuth bool
	// PushCentral has the operator's login added to pushes that bring none (push: central); nil means to none.
	PushCentral func(reg oci.Registry, repository string) bool
	// OwnFirst has a client's own Authorization go before the operator's (ALLOW_OWN_AUTH, and with either of the above).
	OwnFirst bool
	// BufferRequests receives the whole body of a push before upstream is asked (PROXY_REQUEST_BUFFERING).
	BufferRequests bool
}

// Handler serves /v2/ and /v1/ of the registry that the request's context names.
type Handler struct {
	cfg Config
}

// New returns a handler.
func New(cfg Config) *Handler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.GiveUp == 0 {
		cfg.GiveUp = 3 * time.Second
	}
	if cfg.Rules == nil {
		cfg.Rules = func() Rules { return Rules{} }
	}
	return &Handler{cfg: cfg}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.serve(w, r); err != nil {
		h.writeError(w, r, err)
	}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	reg, ok := oci.RegistryFrom(r.Context())
	if !ok {
		return &oci.Error{Code: oci.CodeNameUnknown, Message: "no registry is named by this request"}
	}
	rec := accesslog.From(r.Context())
	rec.Registry = string(reg)
	w.Header()["Docker-Distribution-Api-Version"] = apiVersion
	escaped := r.URL.EscapedPath()
	if escaped == "/v1" || strings.HasPrefix(escaped, "/v1/") {
		rec.Kind = "v1"
		return &oci.Error{Code: oci.CodeUnsupported, HTTPStatus: http.StatusNotFound, Message: "the v1 registry API is not served: the image does not exist upstream, or a login for the registry is needed (AUTH_REGISTRIES)"}
	}
	p, err := oci.ParsePath(escaped)
	if err != nil {
		return err
	}
	rec.Kind, rec.Repository, rec.Reference, rec.Digest = p.Kind.String(), p.Repository, p.Reference(), string(p.Digest)
	switch {
	case isPush(r.Method, p.Kind):
		return h.push(w, r, reg, p)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return notAllowed(w, "method is not supported: want GET or HEAD")
	case p.Kind == oci.KindPing:
		return h.ping(w, r, reg)
	case p.Kind == oci.KindBlob || p.Kind == oci.KindManifest:
		return h.pull(w, r, reg, p)
	}
	if p.Kind == oci.KindReferrers && r.Method == http.MethodGet {
		return h.referrers(w, r, reg, p)
	}
	return h.list(w, r, reg, p)
}

// notAllowed refuses a method.
func notAllowed(w http.ResponseWriter, text string) error {
	w.Header().Set("Allow", "GET, HEAD")
	return &oci.Error{Code: oci.CodeUnsupported, HTTPStatus: http.StatusMethodNotAllowed, Message: text}
}

// caller is who asks, as far as the request says. An empty Basic login counts as none.
func caller(r *http.Request) access.Caller {
	if user, password, ok := r.BasicAuth(); ok && user == "" && password == "" {
		return access.Caller{}
	}
	return access.Caller{Authorization: secret.New(r.Header.Get("Authorization"))}
}
