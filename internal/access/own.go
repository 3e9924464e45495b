package access

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream"
)

const (
	// grace is how long a registry's acceptance of a login is believed without asking again: as long as a revocation may
	// take to bite.
	grace = 5 * time.Minute
	// outageGrace is that while the registry cannot be asked.
	outageGrace = time.Hour
	// sweepEvery is how often acceptances that have run out are dropped.
	sweepEvery = time.Minute
)

// login is what is known of a caller's Authorization: a fingerprint that may be kept, and how long it can be good. The
// zero value is that of a caller without one.
type login struct {
	key secret.Key
	end time.Time // of a token, which says so itself; zero where it does not
	// opaque marks a token that does not say how long it lives: not longer than the grace, for all that we know.
	opaque bool
}

func (a *Access) loginOf(caller Caller) login {
	if caller.Authorization.Empty() {
		return login{}
	}
	l := login{key: a.cfg.Hasher.Key(caller.Authorization)}
	scheme, token, _ := strings.Cut(caller.Authorization.Reveal(), " ")
	if !strings.EqualFold(scheme, "Basic") {
		l.end = expiry(token)
		l.opaque = l.end.IsZero()
	}
	return l
}

// expiry is when a token says that it ends, if it is a JSON web token (RFC 7519, section 4.1.4); nothing vouches for it,
// but it can only shorten what it is used for.
func expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Expires float64 `json:"exp"`
	}
	const never = 1 << 40 // seconds: a slip, not a time
	if json.Unmarshal(payload, &claims) != nil || !(claims.Expires > 0 && claims.Expires < never) {
		return time.Time{}
	}
	return time.Unix(int64(claims.Expires), 0)
}

// accept records that the registry has just taken the caller's login for the repository.
func (a *Access) accept(g Grant) {
	now := a.cfg.Now()
	last, known := a.cfg.Metadata.Accepted(g.Registry, g.Repository, g.login.key)
	if age := now.Sub(last.At); known && age >= 0 && age < grace/10 {
		return // the grace ends a little sooner, and most requests write nothing
	}
	end := g.login.end
	if g.login.opaque {
		end = now.Add(grace)
	}
	a.cfg.Metadata.PutAccepted(g.Registry, g.Repository, g.login.key, metadata.Acceptance{At: now, End: end})
}

// accepted reports whether the registry has taken the caller's login for the repository within a period.
func (a *Access) accepted(g Grant, within time.Duration) bool {
	last, known := a.cfg.Metadata.Accepted(g.Registry, g.Repository, g.login.key)
	return known && a.stands(last, within)
}

// stands reports whether an acceptance still counts. One from the future, which a clock that was set back leaves behind,
// does not.
func (a *Access) stands(last metadata.Acceptance, within time.Duration) bool {
	now := a.cfg.Now()
	age := now.Sub(last.At)
	return age >= 0 && age < within && (last.End.IsZero() || now.Before(last.End))
}

// confirmOwn asks the registry, with the caller's own login, for what p names, unless it has taken that login for the
// repository within the grace. While the registry cannot be asked a longer grace counts.
func (a *Access) confirmOwn(ctx context.Context, g Grant, p oci.Path) error {
	if a.accepted(g, grace) {
		return nil
	}
	within, stands, down := ctx, a.accepted(g, outageGrace), a.Unreachable(g.Registry)
	if stands && down {
		return nil
	}
	if stands || down {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeoutCause(ctx, a.cfg.GiveUp, ErrHangs)
		defer cancel()
	}
	err := a.hung(g.Registry, a.share(within, fmt.Sprintf("own %s %q %q", g.Flight(), g.Registry, p.String()), func(ctx context.Context) error {
		return a.ask(ctx, g, g.Repository, p.String(), http.StatusForbidden)
	}))
	refusal, refused := errors.AsType[*upstream.Refusal](err)
	switch {
	case err == nil:
		a.Answered(g, p)
	case stands && ctx.Err() == nil && (!refused || refusal.Status >= http.StatusInternalServerError):
		return nil
	case refused && (refusal.Status == http.StatusUnauthorized || refusal.Status == http.StatusForbidden):
		a.cfg.Metadata.ForgetAccepted(g.Registry, g.Repository, g.login.key)
	}
	return err
}

// Known reports whether the registry took the caller's login, for whatever repository, so lately that it counts while
// the registry cannot be asked.
func (a *Access) Known(caller Caller, reg oci.Registry) bool {
	last, known := a.cfg.Metadata.Accepted(reg, "", a.loginOf(caller).key)
	return known && a.stands(last, outageGrace)
}

// Welcomed records that the registry took the caller's login, for nothing in particular.
func (a *Access) Welcomed(caller Caller, reg oci.Registry) {
	a.accept(Grant{Registry: reg, login: a.loginOf(caller)})
}

// Run drops what has run out, until ctx ends.
func (a *Access) Run(ctx context.Context) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		now := a.cfg.Now()
		a.cfg.Metadata.ForgetAcceptedBefore(now.Add(-outageGrace), now)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
