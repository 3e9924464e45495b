package auth

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

const (
	// maxTokenBody bounds the answer of a token service. A token must fit in a request header, 32 KiB at the worst, and
	// some answers repeat it twice beside a refresh token.
	maxTokenBody = 1 << 20
	// tokenTimeout bounds one token request, body and all.
	tokenTimeout = 30 * time.Second
	// The life of a token: without a word of it 60 s, and never less (the token specification, "expires_in"). Registries
	// give at most a day; a week, or a million years, is a slip that we do not rely on.
	minTokenLife = 60 * time.Second
	maxTokenLife = 24 * time.Hour
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
	registry   oci.Registry
	realm      realm
	service    string
	scope      Scope
	credential *Credential // nil asks for an anonymous token
}

func (r tokenRequest) key() tokenKey {
	k := tokenKey{registry: r.registry, realm: r.realm.url.String(), service: r.service, scope: r.scope}
	if r.credential != nil {
		k.login = r.credential.key()
	}
	return k
}

// grant is a token, or the fact that there is none.
type grant struct {
	header  secret.String // "Bearer …"
	refusal error         // matches ErrNoAnswer
	until   time.Time
}

// tokens keeps tokens for their life.
type tokens struct {
	cache  *lru[tokenKey, grant]
	flight singleflight.Group
}

// token returns the header of a token for r: the cached one, or one asked for now. Callers who want the same wait for
// one request, which does not end when one of them does.
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
	resp, err := a.send(ctx, r)
	if err != nil {
		a.observe(r.registry, 0)
		if refused, ok := errors.AsType[*dial.RefusedError](err); ok {
			return a.refusal(ctx, r, refused.Error()), nil
		}
		return grant{}, &ServiceError{Host: r.realm.authority, Err: err}
	}
	defer resp.Body.Close()
	a.observe(r.registry, resp.StatusCode)
	switch status := resp.StatusCode; {
	case status == http.StatusOK:
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500, status < 300:
		return grant{}, &ServiceError{Host: r.realm.authority, Status: status, RetryAfter: resp.Header.Get("Retry-After")}
	default: // a redirect is refused too: it would carry the login, or bring somebody else's token
		return a.refusal(ctx, r, "status "+strconv.Itoa(status)), nil
	}
	token, life, err := readToken(resp.Body)
	if err != nil {
		return grant{}, &ServiceError{Host: r.realm.authority, Status: resp.StatusCode, Err: err}
	}
	return grant{header: secret.New("Bearer " + token), until: asked.Add(life - life/10)}, nil
}

// send makes the one request of the GET flow (the token specification, "Requesting a Token").
func (a *Authorizer) send(ctx context.Context, r tokenRequest) (*http.Response, error) {
	u := *r.realm.url
	query := u.Query()
	if r.service != "" {
		query.Set("service", r.service)
	}
	for scope := range strings.FieldsSeq(string(r.scope)) {
		query.Add("scope", scope)
	}
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("malformed realm")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "container-registry-proxy")
	if r.credential != nil {
		req.Header.Set("Authorization", r.credential.basic().Reveal())
	}
	transport := a.cfg.Transport
	if a.cfg.Unverified != nil && a.insecure(hostOf(r.registry.Authority())) {
		transport = a.cfg.Unverified
	}
	if transport == nil {
		return nil, errors.New("no transport")
	}
	return transport.RoundTrip(req)
}

// refusal is the grant that there is none. A refused login is the operator's business.
func (a *Authorizer) refusal(ctx context.Context, r tokenRequest, reason string) grant {
	if r.credential != nil {
		a.log.WarnContext(ctx, "token service refuses the configured login", "registry", string(r.registry), "realm", r.realm.authority, "err", reason)
	}
	err := fmt.Errorf("%w: token service %s: %s", ErrNoAnswer, r.realm.authority, reason)
	return grant{refusal: err, until: time.Now().Add(refusedFor)}
}

func (a *Authorizer) observe(reg oci.Registry, status int) {
	if a.cfg.Observe != nil {
		a.cfg.Observe(reg, status)
	}
}

// readToken reads a token service's answer, for example
//
//	{"token": "eyJhbGciOi…", "access_token": "eyJhbGciOi…", "expires_in": 300, "issued_at": "2026-01-02T15:04:05Z"}
//
// either token will do. issued_at is another machine's clock and is not read.
func readToken(body io.Reader) (token string, life time.Duration, err error) {
	b, err := io.ReadAll(io.LimitReader(body, maxTokenBody+1))
	if err != nil {
		return "", 0, err
	}
	if len(b) > maxTokenBody {
		return "", 0, fmt.Errorf("answer longer than %d bytes", maxTokenBody)
	}
	var answer struct {
		Token       string          `json:"token"`
		AccessToken string          `json:"access_token"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return "", 0, errors.New("answer is not the JSON of a token") // the decoder's own words may quote it
	}
	token = answer.Token
	if token == "" {
		token = answer.AccessToken
	}
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", 0, errors.New("answer holds no token")
	}
	return token, tokenLife(answer.ExpiresIn), nil
}

// tokenLife reads expires_in: seconds, as a number or, from some, as a string of one.
func tokenLife(raw json.RawMessage) time.Duration {
	seconds, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	if err != nil || !(seconds > minTokenLife.Seconds()) {
		return minTokenLife
	}
	if seconds > maxTokenLife.Seconds() {
		return maxTokenLife
	}
	return time.Duration(seconds * float64(time.Second))
}
