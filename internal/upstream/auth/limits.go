package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"time"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
)

// Account is whom a registry counts a request of the identity for. Of logins it has a short hash of the user name, which
// is no secret and the same after a restart.
func (a *Authorizer) Account(ctx context.Context, reg oci.Registry, scope Scope, id Identity) ratelimit.Account {
	switch {
	case id.IsOwn():
		k := id.Key()
		return ratelimit.Account{Class: "own", Name: hex.EncodeToString(k[:8])}
	case !id.IsCentral():
		return ratelimit.Account{}
	}
	login, err := a.current(ctx, reg, scope.repository())
	if err != nil {
		return ratelimit.Account{Class: "central"}
	}
	return accountOf(&login.Login)
}

// accountOf is the account of a configured login, or of none.
func accountOf(login *credential.Login) ratelimit.Account {
	if login == nil {
		return ratelimit.Account{}
	}
	sum := sha256.Sum256([]byte(login.Username))
	return ratelimit.Account{Class: "central", Name: hex.EncodeToString(sum[:8])}
}

// limited asks a token service, unless it is left alone after a 429. The error is then a [*ServiceError], as if it had
// answered so again.
func (a *Authorizer) limited(ctx context.Context, r tokenRequest) (tokenAnswer, error) {
	if a.cfg.Limits == nil {
		return a.exchange(ctx, r)
	}
	turn, err := a.cfg.Limits.Enter(r.registry, accountOf(r.login), ratelimit.Token, ratelimit.Client)
	if cooling, ok := errors.AsType[*ratelimit.CoolingError](err); ok {
		return tokenAnswer{}, &ServiceError{Host: r.realm.authority, Status: http.StatusTooManyRequests, RetryAfter: cooling.Header().Get("Retry-After"), Err: cooling}
	}
	answer, err := a.exchange(ctx, r)
	done := ratelimit.Answer{Status: http.StatusOK}
	if trouble, ok := errors.AsType[*ServiceError](err); ok {
		done = ratelimit.Answer{Status: trouble.Status, Header: http.Header{"Retry-After": {trouble.RetryAfter}}}
		if trouble.Status == http.StatusTooManyRequests && trouble.RetryAfter == "" {
			done.Header = http.Header{}
		}
	}
	turn.Done(done)
	return answer, err
}

// TooMany is the answer of a token service that limits requests, if that is what err says, and for how long it wants to be
// left alone, as far as it says.
func TooMany(err error) (host string, retryAfter time.Duration, ok bool) {
	trouble, ok := errors.AsType[*ServiceError](err)
	if !ok || trouble.Status != http.StatusTooManyRequests {
		return "", 0, false
	}
	seconds, err := strconv.ParseUint(trouble.RetryAfter, 10, 31)
	if err == nil {
		return trouble.Host, time.Duration(seconds) * time.Second, true
	}
	if at, err := http.ParseTime(trouble.RetryAfter); err == nil {
		return trouble.Host, max(time.Until(at), 0), true
	}
	return trouble.Host, 0, true
}
