// Package auth answers the challenges of registries. Its invariant: a credential is sent to the registry it was
// configured for, or to a token service that is paired with that registry, over verified TLS, and nowhere else; a token
// goes to no registry but the one whose challenge it answers. It sends no request to a registry itself: it is asked what
// to send, and asks token services.
package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

// ErrNoAnswer means that a challenge cannot be answered as the identity asked for: there is no credential, the token
// service refuses it, the credential was sent already, or the realm is not paired with the registry. The 401 stands.
var ErrNoAnswer = errors.New("challenge cannot be answered")

// maxRegistries bounds the registries whose challenges are remembered.
const maxRegistries = 4096

// Config says which credentials there are and where they may go.
type Config struct {
	// Entries are the configured logins (AUTH_REGISTRIES). One whose host is malformed is logged and left out.
	Entries []Entry
	// Named reports whether the operator named the host (in REGISTRIES or AUTH_REGISTRIES). Two named hosts under one
	// registrable domain are paired. The hosts of Entries are named anyway. Nil means no other host is.
	Named func(host string) bool
	// Pairs adds the hosts of token services that are trusted for a registry.
	Pairs map[oci.Registry][]string
	// Insecure reports whether verification is switched off for the host, so that its credentials may travel over what
	// is not verified TLS. Nil means no host.
	Insecure func(host string) bool
	// Transport carries the token requests; it must be the vetted one. Without it every token request fails.
	Transport http.RoundTripper
	// Unverified carries those that an insecure registry leads to; nil means Transport.
	Unverified http.RoundTripper
	// Observe is told of each token request for a registry: the status of the answer, 0 where there was none. Nil means
	// nobody is.
	Observe func(reg oci.Registry, status int)
	// Log is told of logins that are refused; nil means discard.
	Log *slog.Logger
}

// Authorizer knows what to send to which registry. It is safe for concurrent use.
type Authorizer struct {
	cfg        Config
	log        *slog.Logger
	entries    []entry
	entryHosts map[string]bool
	// challenged holds what each registry last answered a request without credentials with.
	challenged *lru[oci.Registry, []challenge]
	tokens     tokens
}

// New returns an authorizer for cfg.
func New(cfg Config) *Authorizer {
	a := &Authorizer{
		cfg:        cfg,
		log:        cfg.Log,
		entryHosts: map[string]bool{},
		challenged: newLRU[oci.Registry, []challenge](maxRegistries),
		tokens:     tokens{cache: newLRU[tokenKey, grant](maxTokens)},
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	for _, e := range cfg.Entries {
		parsed, err := parseEntry(e)
		if err != nil {
			a.log.Error("login left out", "err", err)
			continue
		}
		a.entries = append(a.entries, parsed)
		a.entryHosts[hostOf(parsed.authority)] = true
	}
	return a
}

// HasCentral reports whether a configured login serves the registry: its own, or that of a token host paired with it.
// Which host issues the tokens is known for certain only once the registry has challenged; until then every paired
// host on the usual port counts.
func (a *Authorizer) HasCentral(reg oci.Registry) bool {
	if _, ok := a.ownCredential(reg); ok {
		return true
	}
	if challenges, known := a.challenged.get(reg); known {
		return a.hasRealmCredential(reg, challenges)
	}
	for _, e := range a.entries {
		if reg != plainHub && hostOf(e.authority) == e.authority && a.paired(reg, e.authority) {
			return true
		}
	}
	return false
}

func (a *Authorizer) hasRealmCredential(reg oci.Registry, challenges []challenge) bool {
	for _, c := range challenges {
		r, err := parseRealm(c.parameters["realm"])
		if err != nil || c.scheme != "bearer" || !a.protected(reg, r) {
			continue
		}
		if _, ok := a.realmCredential(reg, r); ok {
			return true
		}
	}
	return false
}

// Authorization is the header to send first, from the remembered challenge; empty where nothing is known or nothing is
// needed. It may ask a token service; an error says that the service cannot be reached.
func (a *Authorizer) Authorization(ctx context.Context, reg oci.Registry, scope Scope, id Identity) (secret.String, error) {
	if id.IsOwn() {
		return id.own, nil
	}
	challenges, ok := a.challenged.get(reg)
	if !ok {
		return secret.String{}, nil
	}
	header, err := a.answer(ctx, question{registry: reg, scope: scope, as: id}, challenges)
	if errors.Is(err, ErrNoAnswer) {
		return secret.String{}, nil
	}
	return header, err
}

// Answer is the header to ask once more with, after resp, a 401, to a request that carried sent. The body of resp stays
// the caller's. Errors match [ErrNoAnswer] where the 401 should be passed on; any other says that the token service
// cannot be reached.
func (a *Authorizer) Answer(ctx context.Context, reg oci.Registry, scope Scope, id Identity, resp *http.Response, sent secret.String) (secret.String, error) {
	if id.IsOwn() {
		return secret.String{}, fmt.Errorf("%w: the client's own Authorization is sent as it came", ErrNoAnswer)
	}
	challenges := parseChallenges(resp.Header)
	if sent.Empty() {
		a.challenged.put(reg, challenges)
	}
	header, err := a.answer(ctx, question{registry: reg, scope: scope, as: id, sent: sent, asked: true}, challenges)
	if errors.Is(err, ErrNoAnswer) && !sent.Empty() {
		// What we sent is not wanted any more, so what we remember is stale: the next request learns anew.
		a.challenged.drop(reg, func([]challenge) bool { return true })
	}
	return header, err
}

// Visit is Answer for the target of a redirect, as [Anonymous]: it asks for what the target's challenge names, to read
// it, and remembers nothing of a challenge that another registry led to.
func (a *Authorizer) Visit(ctx context.Context, reg oci.Registry, resp *http.Response) (secret.String, error) {
	return a.answer(ctx, question{registry: reg, asked: true}, parseChallenges(resp.Header))
}

// question is one caller's need of an answer.
type question struct {
	registry oci.Registry
	scope    Scope
	as       Identity
	sent     secret.String // refused already
	asked    bool          // the challenges answer this very request, so the scope they name concerns it
}

// answer tries the challenges in our order of preference: a token, which is good for one repository, before a password.
func (a *Authorizer) answer(ctx context.Context, q question, challenges []challenge) (secret.String, error) {
	err := fmt.Errorf("%w: no scheme that we speak", ErrNoAnswer)
	for _, scheme := range []string{"bearer", "basic"} {
		for _, c := range challenges {
			if c.scheme != scheme {
				continue
			}
			reply := a.bearer
			if scheme == "basic" {
				reply = a.basic
			}
			var header secret.String
			if header, err = reply(ctx, q, c); err == nil || !errors.Is(err, ErrNoAnswer) {
				return header, err
			}
		}
	}
	return secret.String{}, err
}

// bearer gets a token from the challenge's realm. A configured login goes to a realm that is paired with the registry.
// An anonymous token may come from any realm over TLS: nothing secret goes there, and the token, which speaks for
// nobody, goes to the registry that named the realm; registries under a vanity name depend on it.
func (a *Authorizer) bearer(ctx context.Context, q question, c challenge) (secret.String, error) {
	r, err := parseRealm(c.parameters["realm"])
	if err != nil {
		return secret.String{}, fmt.Errorf("%w: %s: %v", ErrNoAnswer, q.registry, err)
	}
	if !a.protected(q.registry, r) {
		return secret.String{}, fmt.Errorf("%w: realm %s of %s is not reached over TLS", ErrNoAnswer, r.authority, q.registry)
	}
	request := tokenRequest{registry: q.registry, realm: r, service: c.parameters["service"], scope: q.scope.widen("")}
	if q.asked {
		request.scope = q.scope.widen(c.parameters["scope"])
	}
	if q.as.IsCentral() {
		credential, ok := a.realmCredential(q.registry, r)
		if !ok {
			return secret.String{}, fmt.Errorf("%w: no login for %s may go to realm %s", ErrNoAnswer, q.registry, r.authority)
		}
		request.credential = &credential
	}
	if !q.sent.Empty() {
		a.tokens.cache.drop(request.key(), func(g grant) bool { return g.header == q.sent })
	}
	return a.token(ctx, request)
}

// basic is the login of the registry itself, and only its own: a token host's login is for the token host.
func (a *Authorizer) basic(_ context.Context, q question, _ challenge) (secret.String, error) {
	credential, ok := a.ownCredential(q.registry)
	if !ok || !q.as.IsCentral() {
		return secret.String{}, fmt.Errorf("%w: no login for %s", ErrNoAnswer, q.registry)
	}
	header := credential.basic()
	if header == q.sent {
		return secret.String{}, fmt.Errorf("%w: %s refuses the configured login", ErrNoAnswer, q.registry)
	}
	return header, nil
}
