package auth

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sync/singleflight"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

const (
	// tokenTimeout bounds one token request with all its attempts, bodies included.
	tokenTimeout = 30 * time.Second
	// refusedFor is how long a refused login or an unavailable anonymous token is not asked for again.
	refusedFor = time.Minute
	// maxTokens bounds the tokens kept: at some kilobytes each, tens of megabytes at the worst.
	maxTokens = 4096
)

// ServiceError says that a token service gave no usable answer: it was not reached, or it is in trouble (429, 5xx).
type ServiceError struct {
	// Host is the token service's.
	Host string
	// Status is its answer's, 0 where there was none.
	Status int
	// RetryAfter is the answer's header of that name.
	RetryAfter string
	// Err is what went wrong besides the status.
	Err error
}

func (e *ServiceError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("token service %s: status %d", e.Host, e.Status)
	}
	return fmt.Sprintf("token service %s: %v", e.Host, e.Err)
}

func (e *ServiceError) Unwrap() error { return e.Err }

// tokenKey is what a token is good for. Tokens of different logins, or of none, never meet.
type tokenKey struct {
	registry       oci.Registry
	realm, service string
	scope          Scope
	login          secret.Key
}

// String spells the key so that no two keys spell the same.
func (k tokenKey) String() string {
	b := []byte(hex.EncodeToString(k.login[:]))
	for _, field := range []string{string(k.registry), k.realm, k.service, string(k.scope)} {
		b = strconv.AppendQuote(b, field)
	}
	return string(b)
}

// tokenRequest is a question to a token service.
type tokenRequest struct {
	registry oci.Registry
	realm    realm
	service  string
	scope    Scope
	login    *credential.Login // nil asks for an anonymous token
}

func (r tokenRequest) key() tokenKey {
	k := tokenKey{registry: r.registry, realm: r.realm.url.String(), service: r.service, scope: r.scope}
	if r.login != nil {
		k.login = r.login.Key()
	}
	return k
}

// grant is a token, or the fact that there is none.
type grant struct {
	header  secret.String // "Bearer …"
	refusal error         // a *refusedError
	asked   time.Time
	until   time.Time
}

// tokens keeps tokens for their life, and what is known of how services are asked.
type tokens struct {
	cache  *lru[tokenKey, grant]
	flight singleflight.Group
	spoken *lru[serviceKey, flow]
}

func newTokens() *tokens {
	return &tokens{cache: newLRU[tokenKey, grant](maxTokens), spoken: newLRU[serviceKey, flow](maxRegistries)}
}

// dropSent forgets the token that the question's request carried in vain; a young one only where it is sure that the
// token is to blame.
func (t *tokens) dropSent(key tokenKey, q question) {
	if q.sent.Empty() {
		return
	}
	t.cache.drop(key, func(g grant) bool {
		return g.header == q.sent && !(q.doubtful && time.Since(g.asked) < youngToken)
	})
}

// forget drops a token that a registry has refused, wherever it came from: the refusal may name another service.
func (t *tokens) forget(header secret.String) {
	t.dropEach(func(g grant) bool { return g.header == header })
}

// forgetRefusals has services asked again that refused a token.
func (t *tokens) forgetRefusals() {
	t.dropEach(func(g grant) bool { return g.refusal != nil })
}

// dropEach drops all grants that match.
func (t *tokens) dropEach(match func(g grant) bool) {
	var stale []tokenKey
	t.cache.each(func(key tokenKey, g grant) {
		if match(g) {
			stale = append(stale, key)
		}
	})
	for _, key := range stale {
		t.cache.drop(key, match)
	}
}

// token returns the header of a token for r: the cached one, or one asked for now. Callers who want the same wait for
// one request, which does not end when one of them does. The error is a [*refusedError], or a [*ServiceError], or the
// cause of ctx.
func (a *Authorizer) token(ctx context.Context, r tokenRequest) (secret.String, error) {
	key := r.key()
	if g, ok := a.cached(key); ok {
		return g.header, g.refusal
	}
	flight := a.tokens.flight.DoChan(key.String(), func() (any, error) {
		if g, ok := a.cached(key); ok {
			return g, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenTimeout)
		defer cancel()
		g, err := a.fetch(ctx, r)
		if err != nil {
			return nil, err
		}
		a.tokens.cache.put(key, g)
		return g, nil
	})
	select {
	case <-ctx.Done():
		return secret.String{}, context.Cause(ctx)
	case result := <-flight:
		if result.Err != nil {
			return secret.String{}, result.Err
		}
		g := result.Val.(grant)
		return g.header, g.refusal
	}
}

func (a *Authorizer) cached(key tokenKey) (grant, bool) {
	g, ok := a.tokens.cache.get(key)
	return g, ok && time.Now().Before(g.until)
}

// fetch asks the token service. A grant without a token is its refusal; an error says that it gave no answer.
func (a *Authorizer) fetch(ctx context.Context, r tokenRequest) (grant, error) {
	asked := time.Now() // before the answer: a token's life is counted from its issue, whatever clock stamped it
	answer, err := a.limited(ctx, r)
	if refused, ok := err.(*refusedError); ok {
		return grant{refusal: refused, asked: asked, until: time.Now().Add(refusedFor)}, nil
	}
	if err != nil {
		return grant{}, err
	}
	if r.login != nil {
		a.refusals.accept(ctx, r.registry, "", *r.login)
	}
	return grant{header: secret.New("Bearer " + answer.token), asked: asked, until: asked.Add(answer.life - answer.life/10)}, nil
}

// observe tells who counts that a token service answered.
func (a *Authorizer) observe(reg oci.Registry, resp *http.Response) {
	if a.cfg.Observe == nil {
		return
	}
	status := 0
	if resp != nil {
		status = resp.StatusCode
	}
	a.cfg.Observe(reg, status)
}
