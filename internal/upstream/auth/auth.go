// Package auth answers the challenges of registries. Its invariant: a credential is sent to the registry it was
// configured for, or to a token service that is paired with that registry, over verified TLS, and nowhere else; a token
// goes to no registry but the one whose challenge it answers. It sends no request to a registry itself: it is asked what
// to send, and asks token services.
package auth

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

// ErrNoAnswer means that a challenge cannot be answered as the identity asked for: there is no credential, the token
// service refuses it, the credential was sent already, or the realm is not paired with the registry. The 401 stands.
var ErrNoAnswer = errors.New("challenge cannot be answered")

// Config says which credentials there are and where they may go.
type Config struct {
	// Entries are the configured logins (AUTH_REGISTRIES).
	Entries []Entry
	// Named reports whether the operator named the host (in REGISTRIES or AUTH_REGISTRIES). Two named hosts under one
	// registrable domain are paired. Nil means no host is named.
	Named func(host string) bool
	// Insecure reports whether verification is switched off for the host, so that its credentials may travel over what
	// is not verified TLS. Nil means no host.
	Insecure func(host string) bool
	// Transport carries the token requests; it must be the vetted one. Nil is for tests of parsers: every token
	// request fails.
	Transport http.RoundTripper
	// Log is told of credentials that are refused or withheld; nil means discard.
	Log *slog.Logger
}

// Authorizer knows what to send to which registry. It is safe for concurrent use.
type Authorizer struct {
	cfg Config
}

// New returns an authorizer for cfg.
func New(cfg Config) *Authorizer { return &Authorizer{cfg: cfg} }

// HasCentral reports whether a configured login serves the registry: its own, or that of a token host paired with it.
func (a *Authorizer) HasCentral(reg oci.Registry) bool { panic("not yet") }

// Authorization is the header to send first, from the remembered challenge; empty where nothing is known or nothing is
// needed. It may ask a token service; an error says that the service cannot be reached.
func (a *Authorizer) Authorization(ctx context.Context, reg oci.Registry, scope Scope, id Identity) (secret.String, error) {
	panic("not yet")
}

// Answer is the header to ask once more with, after resp, a 401, to a request that carried sent. The body of resp stays
// the caller's. Errors match [ErrNoAnswer] where the 401 should be passed on; any other says that the token service
// cannot be reached.
func (a *Authorizer) Answer(ctx context.Context, reg oci.Registry, scope Scope, id Identity, resp *http.Response, sent secret.String) (secret.String, error) {
	panic("not yet")
}
