// Package auth answers the challenges of registries. Its invariant: a login is sent to the registry it was configured
// for, or to a token service that is paired with that registry, over verified TLS, and nowhere else; a token goes to no
// registry but the one whose challenge it answers. It sends no request to a registry itself: it is asked what to send,
// and asks token services.
package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/secret"
)

// ErrNoAnswer means that a challenge cannot be answered as the identity asked for: there is no login, the token service
// or the registry refuses it, or the realm is not paired with the registry. What the registry answered stands.
var ErrNoAnswer = errors.New("challenge cannot be answered")

// maxRegistries bounds the registries whose challenges are remembered.
const maxRegistries = 4096

// Config says which logins there are and where they may go.
type Config struct {
	// Logins finds the operator's logins; nil means those of Entries.
	Logins Logins
	// Entries are logins that do not change, for want of Logins. One whose host is malformed is logged and left out.
	Entries []Entry
	// Named reports whether the operator named the host (in REGISTRIES or AUTH_REGISTRIES). Two named hosts under one
	// registrable domain are paired. Hosts that are named together with a login are named anyway. Nil means no other is.
	Named func(host string) bool
	// Pairs adds the hosts of token services that are trusted for a registry.
	Pairs map[oci.Registry][]string
	// Insecure reports whether verification is switched off for the host, so that its logins may travel over what is not
	// verified TLS. Nil means no host.
	Insecure func(host string) bool
	// Transport carries the token requests; it must be the vetted one. Without it every token request fails.
	Transport http.RoundTripper
	// Unverified carries those that an insecure registry leads to; nil means Transport.
	Unverified http.RoundTripper
	// Observe is told of each token request for a registry: the status of the answer, 0 where there was none. Nil means
	// nobody is.
	Observe func(reg oci.Registry, status int)
	// Limits keeps token requests within what services allow; nil means that they are sent as they come.
	Limits *ratelimit.Watch
	// Log is told of logins that are refused, once each; nil means discard.
	Log *slog.Logger
	// Registries bounds the registry label of metrics: the registry itself, or "other". Nil means always "other".
	Registries func(oci.Registry) string
	// Registerer receives the metrics; nil means none are kept.
	Registerer prometheus.Registerer
}

// Authorizer knows what to send to which registry. It is safe for concurrent use.
type Authorizer struct {
	cfg        Config
	logins     Logins
	loginHosts atomic.Pointer[map[string]bool] // those that are named with a login, without ports
	// challenged holds what each registry last answered a request without credentials with.
	challenged *lru[oci.Registry, []challenge]
	tokens     *tokens
	refusals   *refusals
}

// New returns an authorizer for cfg.
func New(cfg Config) *Authorizer {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Logins == nil {
		cfg.Logins = credential.New(credential.Config{Entries: entries(cfg.Entries), Log: cfg.Log})
	}
	a := &Authorizer{
		cfg:        cfg,
		logins:     cfg.Logins,
		challenged: newLRU[oci.Registry, []challenge](maxRegistries),
		tokens:     newTokens(),
		refusals:   newRefusals(cfg.Log, newMetrics(cfg)),
	}
	a.nameHosts()
	return a
}

func (a *Authorizer) nameHosts() {
	hosts := map[string]bool{}
	for _, host := range a.logins.Hosts() {
		hosts[hostOf(host.Authority())] = true
		hosts[hostOf(string(host))] = true // docker.io, whose authority is another
	}
	a.loginHosts.Store(&hosts)
}

// HasCentral reports whether a configured login serves all of the registry: its own, or that of a token host paired with
// it. It may wait for a credential store, the first time.
func (a *Authorizer) HasCentral(reg oci.Registry) bool { return a.HasCentralFor(reg, "") }

// HasCentralFor is HasCentral for one repository, for which there may be a login where there is none for the others.
func (a *Authorizer) HasCentralFor(reg oci.Registry, repository string) bool {
	for host := range a.hosts(reg) {
		if a.logins.Has(context.Background(), host, repository) {
			return true
		}
	}
	return false
}

// Refused reports whether the configured login for a repository is of no use now: the registry or its token service
// refused it within the last minute, or it cannot be had from its source, or there is none. What the registry shows to
// everybody is then to be asked for as [Anonymous].
func (a *Authorizer) Refused(ctx context.Context, reg oci.Registry, repository string) bool {
	login, err := a.current(ctx, reg, repository)
	if err != nil {
		return ctx.Err() == nil
	}
	return a.refusals.rests(reg, repository, login.Login) || a.refusals.rests(reg, "", credential.Login{})
}

// current is the login that serves a repository, as far as that is known.
func (a *Authorizer) current(ctx context.Context, reg oci.Registry, repository string) (held, error) {
	return a.find(ctx, a.hosts(reg), repository)
}

// Reload has every login that was refused tried again. Logins are reloaded before.
func (a *Authorizer) Reload() {
	a.nameHosts()
	a.refusals.forget()
	a.tokens.forgetRefusals()
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

// Answerable reports whether a status may be one to ask again after, with [Authorizer.Answer]: a challenge, or how some
// registries say without one that what they were sent has expired.
func Answerable(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusBadRequest
}

// Renewable reports whether what is refused although it answers a challenge may be asked about once more: a login may
// have been replaced meanwhile, while a fresh token is as good as it gets.
func Renewable(sent secret.String) bool { return isBasic(sent) }

// Answer is the header to ask once more with, after resp to a request that carried sent. The body of resp stays the
// caller's. Errors match [ErrNoAnswer] where the response should be passed on; any other says that the token service
// cannot be reached.
func (a *Authorizer) Answer(ctx context.Context, reg oci.Registry, scope Scope, id Identity, resp *http.Response, sent secret.String) (secret.String, error) {
	if id.IsOwn() {
		return secret.String{}, fmt.Errorf("%w: the client's own Authorization is sent as it came", ErrNoAnswer)
	}
	q := question{registry: reg, scope: scope, as: id, sent: sent, asked: true}
	if resp.StatusCode != http.StatusUnauthorized {
		return a.expired(ctx, q, resp.StatusCode)
	}
	challenges := parseChallenges(resp.Header)
	remembered, _ := a.challenged.get(reg)
	if sent.Empty() {
		a.challenged.put(reg, challenges)
	} else if len(elsewhere(challenges, remembered)) > 0 {
		a.tokens.forget(sent)
	}
	header, err := a.answer(ctx, q, challenges)
	if errors.Is(err, ErrNoAnswer) && !sent.Empty() && !id.IsCentral() {
		header, err = a.anew(ctx, q, elsewhere(remembered, challenges), err)
	}
	if errors.Is(err, ErrNoAnswer) && !sent.Empty() {
		// What we sent is not wanted any more, so what we remember is stale: the next request learns anew.
		a.challenged.drop(reg, func([]challenge) bool { return true })
	}
	return header, err
}

// elsewhere are the challenges for a token whose token service is not one of the others'.
func elsewhere(challenges, others []challenge) []challenge {
	return slices.DeleteFunc(slices.Clone(challenges), func(c challenge) bool {
		return c.scheme != "bearer" || slices.ContainsFunc(others, func(o challenge) bool { return o.parameters["realm"] == c.parameters["realm"] })
	})
}

// anew is for a token that is refused with challenges which lead nowhere: it asks where the token came from for another.
// nvcr.io has a token service for everybody and, once a token is not good any more, names one for logins alone.
func (a *Authorizer) anew(ctx context.Context, q question, origin []challenge, noAnswer error) (secret.String, error) {
	if len(origin) == 0 {
		return secret.String{}, noAnswer
	}
	q.asked = false
	header, err := a.answer(ctx, q, origin)
	if err == nil && header == q.sent {
		return secret.String{}, noAnswer
	}
	return header, err
}

// Learn is told what a registry answered to what Authorization or Answer had sent, where there is nothing more to try.
func (a *Authorizer) Learn(ctx context.Context, reg oci.Registry, scope Scope, id Identity, sent secret.String, status int) {
	if !id.IsCentral() || sent.Empty() {
		return
	}
	taken, refused := status < 400, status == http.StatusUnauthorized || status == http.StatusForbidden
	if !refused && !(taken && (isBasic(sent) || a.refusals.any.Load())) {
		return
	}
	repository := scope.repository()
	login, err := a.current(ctx, reg, repository)
	switch {
	case err != nil:
	case taken:
		a.refusals.accept(ctx, reg, repository, login.Login)
	default:
		a.refusals.note(ctx, reg, repository, &refusedError{
			login: login.Login, narrow: !(isBasic(sent) && status == http.StatusUnauthorized), reason: fmt.Sprintf("registry answers %d", status),
		})
	}
}

// Visit is Answer for the target of a redirect, as [Anonymous]: it asks for what the target's challenge names, to read
// it, and remembers nothing of a challenge that another registry led to.
func (a *Authorizer) Visit(ctx context.Context, reg oci.Registry, resp *http.Response) (secret.String, error) {
	return a.answer(ctx, question{registry: reg, asked: true}, parseChallenges(resp.Header))
}

// Realms are the token services that the registry has named and that are paired with it.
func (a *Authorizer) Realms(reg oci.Registry) (realms []oci.Registry) {
	challenges, _ := a.challenged.get(reg)
	if c, ok := wellKnown()[reg]; ok && len(challenges) == 0 {
		challenges = []challenge{c}
	}
	for _, c := range challenges {
		if r, err := parseRealm(c.parameters["realm"]); err == nil && c.scheme == "bearer" && a.paired(reg, r.host) {
			realms = append(realms, r.registry)
		}
	}
	return realms
}
