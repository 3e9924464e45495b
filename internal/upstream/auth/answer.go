package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

// youngToken is the age up to which a token is not suspected to have expired before its time.
const youngToken = 10 * time.Second

// question is one caller's need of an answer.
type question struct {
	registry oci.Registry
	scope    Scope
	as       Identity
	sent     secret.String // refused already
	asked    bool          // the challenges answer this very request, so the scope they name concerns it
	doubtful bool          // sent may have been refused for another reason than itself
}

func isBasic(header secret.String) bool { return strings.HasPrefix(header.Reveal(), "Basic ") }

// answer tries the challenges in our order of preference: a token, which is good for one repository, before a password.
// A login that turns out to be of no use is noted once none of them can be answered.
func (a *Authorizer) answer(ctx context.Context, q question, challenges []challenge) (secret.String, error) {
	err := fmt.Errorf("%w: no scheme that we speak", ErrNoAnswer)
	var refused *refusedError
schemes:
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
			if refused == nil {
				refused, _ = errors.AsType[*refusedError](err)
			}
			if refused != nil && !refused.login.Secret.Empty() && !refused.narrow {
				break schemes // a wrong password is not tried in two places
			}
		}
	}
	if refused != nil && q.as.IsCentral() {
		a.refusals.note(ctx, q.registry, q.scope.repository(), refused)
	}
	return secret.String{}, err
}

// bearer gets a token from the challenge's realm. A configured login goes to a realm that is paired with the registry.
// An anonymous token may come from any realm over TLS: nothing secret goes there, and the token, which speaks for
// nobody, goes to the registry that named the realm; registries under a vanity name depend on it.
func (a *Authorizer) bearer(ctx context.Context, q question, c challenge) (secret.String, error) {
	r, err := parseRealm(c.parameters["realm"])
	if err != nil {
		return secret.String{}, &refusedError{reason: fmt.Sprintf("%s: %v", q.registry, err)}
	}
	if !a.protected(q.registry, r) {
		return secret.String{}, &refusedError{reason: fmt.Sprintf("realm %s of %s is not reached over TLS", r.authority, q.registry)}
	}
	request := tokenRequest{registry: q.registry, realm: r, service: c.parameters["service"], scope: q.scope.widen("")}
	if q.asked {
		request.scope = q.scope.widen(c.parameters["scope"])
	}
	if q.as.IsCentral() {
		return a.asCentral(ctx, q, request, a.token)
	}
	if a.privateStranger(q.registry, r) {
		return secret.String{}, fmt.Errorf("%w: realm %s of %s is a private address, and not paired with it (token_services)", ErrNoAnswer, r.authority, q.registry)
	}
	a.tokens.dropSent(request.key(), q)
	return a.token(ctx, request)
}

// asCentral gets a token with the operator's login, and, where that is refused, with what its source has instead.
func (a *Authorizer) asCentral(ctx context.Context, q question, request tokenRequest, ask func(context.Context, tokenRequest) (secret.String, error)) (secret.String, error) {
	login, err := a.loginAt(ctx, q, request.realm)
	if err = a.usable(ctx, q, login, err); err != nil {
		return secret.String{}, err
	}
	for renewed := false; ; renewed = true {
		header, err := secret.New("Bearer "+login.Secret.Reveal()), error(nil)
		if login.Kind != credential.Ready {
			request.login = &login.Login
			a.tokens.dropSent(request.key(), q)
			header, err = ask(ctx, request)
		}
		if err == nil && !q.sent.Empty() && header == q.sent && !q.doubtful {
			err = &refusedError{narrow: login.Kind != credential.Ready, reason: "registry refuses a fresh token"}
		}
		refused, ok := errors.AsType[*refusedError](err)
		if !ok {
			return header, err
		}
		next, another := a.logins.Renew(ctx, login.host, q.scope.repository(), login.Login)
		if !another || renewed {
			return secret.String{}, &refusedError{login: login.Login, narrow: refused.narrow, reason: refused.reason}
		}
		login.Login = next
	}
}

// usable says why a login, or the error in its place, cannot be used now, or nothing.
func (a *Authorizer) usable(ctx context.Context, q question, login held, err error) error {
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, credential.ErrNone):
		return fmt.Errorf("%w: no login for %s is configured", ErrNoAnswer, q.registry)
	case err != nil && a.refusals.rests(q.registry, "", credential.Login{}):
		return fmt.Errorf("%w: %s: %v", ErrNoAnswer, q.registry, err)
	case err != nil:
		return &refusedError{reason: err.Error()}
	case a.refusals.rests(q.registry, q.scope.repository(), login.Login):
		return fmt.Errorf("%w: %s: the login was refused within the last minute", ErrNoAnswer, q.registry)
	}
	return nil
}

// basic is the login of the registry itself, and only its own: a token host's login is for the token host.
func (a *Authorizer) basic(ctx context.Context, q question, _ challenge) (secret.String, error) {
	if !q.as.IsCentral() {
		return secret.String{}, fmt.Errorf("%w: %s wants a login", ErrNoAnswer, q.registry)
	}
	login, err := a.find(ctx, a.spellings(q.registry), q.scope.repository())
	if err = a.usable(ctx, q, login, err); err != nil {
		return secret.String{}, err
	}
	if login.Kind == credential.Password && login.Basic() == q.sent {
		next, renewed := a.logins.Renew(ctx, login.host, q.scope.repository(), login.Login)
		if !renewed {
			return secret.String{}, &refusedError{login: login.Login, reason: "registry answers 401"}
		}
		login.Login = next
	}
	if login.Kind != credential.Password {
		return secret.String{}, &refusedError{login: login.Login, reason: "registry wants a user name and a password, and there is a token"}
	}
	return login.Basic(), nil
}

// expired answers a refusal that is no challenge. ECR says 403 of a login that has expired, and ECR's public registry
// 400 of a token: what was sent is asked for again, and where that yields nothing new the refusal stands.
func (a *Authorizer) expired(ctx context.Context, q question, status int) (secret.String, error) {
	none := fmt.Errorf("%w: %s answers %d", ErrNoAnswer, q.registry, status)
	challenges, known := a.challenged.get(q.registry)
	q.doubtful = true
	switch {
	case q.sent.Empty() || !known:
		return secret.String{}, none
	case status == http.StatusBadRequest && isBasic(q.sent):
		return secret.String{}, none
	case status == http.StatusBadRequest:
		header, err := a.answer(ctx, q, challenges)
		if err == nil && header == q.sent {
			err = none
		}
		return header, err
	case !q.as.IsCentral():
		return secret.String{}, none
	}
	login, err := a.current(ctx, q.registry, q.scope.repository())
	if err != nil {
		return secret.String{}, none
	}
	if isBasic(q.sent) {
		next, renewed := a.logins.Renew(ctx, login.host, q.scope.repository(), login.Login)
		if renewed && next.Kind == credential.Password && next.Basic() != q.sent {
			return next.Basic(), nil
		}
	}
	a.refusals.note(ctx, q.registry, q.scope.repository(), &refusedError{login: login.Login, narrow: true, reason: fmt.Sprintf("registry answers %d", status)})
	return secret.String{}, none
}
