package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/secret"
)

const (
	// maxTokenBody bounds the answer of a token service. A token must fit in a request header, 32 KiB at the worst, and
	// some answers repeat it twice beside a refresh token.
	maxTokenBody = 1 << 20
	// The life of a token: without a word of it 60 s, and never less (the token specification, "expires_in"). Registries
	// give at most a day; a week, or a million years, is a slip that we do not rely on.
	minTokenLife = 60 * time.Second
	maxTokenLife = 24 * time.Hour
	// maxTokenHops bounds redirects of a token request, which may lead to another path and nowhere else.
	maxTokenHops = 3
	// clientID is how we call ourselves where the OAuth2 flow asks.
	clientID = "container-registry-proxy"
)

// flow is a way to ask a token service.
type flow int

const (
	get  flow = iota // the distribution project's token specification, "Requesting a Token"
	post             // its "OAuth2 Token Authentication"
)

// flows are the ways to ask for r, the usual one first. Services are free to speak one alone.
func (r tokenRequest) flows() []flow {
	switch {
	case r.login == nil:
		return []flow{get}
	case r.login.Kind == credential.Identity:
		return []flow{post, get}
	}
	return []flow{get, post}
}

// unspoken reports whether a status may mean that the service does not speak the flow. To a POST, Google answers 404,
// Artifactory 401 and Azure 400.
func (f flow) unspoken(status int) bool {
	switch status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	case http.StatusBadRequest, http.StatusUnauthorized:
		return f == post
	}
	return false
}

// serviceKey is what the flow depends on that a service speaks.
type serviceKey struct {
	realm string
	kind  credential.Kind
}

// exchange asks for a token, in one flow or else in the other. The error is a [*refusedError] or a [*ServiceError].
func (a *Authorizer) exchange(ctx context.Context, r tokenRequest) (tokenAnswer, error) {
	flows := r.flows()
	var key serviceKey
	if len(flows) > 1 {
		key = serviceKey{r.realm.url.String(), r.login.Kind}
		if spoken, ok := a.tokens.spoken.get(key); ok && spoken != flows[0] {
			flows[0], flows[1] = flows[1], flows[0]
		}
	}
	var refused error
	for i, f := range flows {
		resp, err := a.send(ctx, r, f)
		if err != nil {
			return tokenAnswer{}, err
		}
		answer, err := a.receive(r, resp)
		_, isRefusal := err.(*refusedError)
		switch {
		case err == nil && len(flows) > 1:
			a.tokens.spoken.put(key, f)
			return answer, nil
		case !isRefusal:
			return answer, err
		case i == 0, !get.unspoken(resp.StatusCode):
			refused = err // the second flow's word counts, unless the service does not speak it
		}
		if !f.unspoken(resp.StatusCode) {
			break
		}
	}
	return tokenAnswer{}, refused
}

// receive reads an answer. A redirect that was not followed is a refusal too: it would carry the login elsewhere, or
// bring somebody else's token.
func (a *Authorizer) receive(r tokenRequest, resp *http.Response) (tokenAnswer, error) {
	defer resp.Body.Close()
	trouble := &ServiceError{Host: r.realm.authority, Status: resp.StatusCode}
	switch status := resp.StatusCode; {
	case status == http.StatusOK:
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500 && status != http.StatusNotImplemented, status < 300:
		trouble.RetryAfter = resp.Header.Get("Retry-After")
		return tokenAnswer{}, trouble
	default:
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
		return tokenAnswer{}, r.refused(fmt.Sprintf("status %d", status), status != http.StatusUnauthorized)
	}
	answer, err := readToken(resp.Body)
	if err != nil {
		trouble.Err = err
		return tokenAnswer{}, trouble
	}
	return answer, nil
}

func (r tokenRequest) refused(reason string, narrow bool) *refusedError {
	return &refusedError{narrow: narrow, reason: fmt.Sprintf("token service %s: %s", r.realm.authority, reason)}
}

// send asks the service in one flow, and again where it redirects to another path of its own.
func (a *Authorizer) send(ctx context.Context, r tokenRequest, f flow) (*http.Response, error) {
	u := r.target(f)
	for hop := 0; ; hop++ {
		resp, err := a.once(ctx, r, f, u)
		a.observe(r.registry, resp)
		if refused, ok := errors.AsType[*dial.RefusedError](err); ok {
			return nil, r.refused(refused.Error(), false)
		}
		if err != nil {
			return nil, &ServiceError{Host: r.realm.authority, Err: err}
		}
		next := r.realm.samePlace(u, resp, f)
		if next == nil || hop == maxTokenHops {
			return resp, nil
		}
		_ = resp.Body.Close()
		u = next
	}
}

// samePlace is where a redirect of a token request leads, if that is the realm's own scheme, host and port.
func (r realm) samePlace(from *url.URL, resp *http.Response, f flow) *url.URL {
	switch resp.StatusCode {
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther:
		if f == post { // would become a GET, without what was asked
			return nil
		}
	default:
		return nil
	}
	to, err := from.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return nil
	}
	next, err := parseRealm(to.String())
	if err != nil || next.url.Scheme != r.url.Scheme || next.authority != r.authority {
		return nil
	}
	return next.url
}

// target is the URL to ask at: the realm with the question in its query, for a GET.
func (r tokenRequest) target(f flow) *url.URL {
	u := *r.realm.url
	if f == post {
		return &u
	}
	query := u.Query()
	if r.service != "" {
		query.Set("service", r.service)
	}
	for scope := range strings.FieldsSeq(string(r.scope)) {
		query.Add("scope", scope)
	}
	u.RawQuery = query.Encode()
	return &u
}

// form is the question in the OAuth2 flow.
func (r tokenRequest) form() url.Values {
	form := url.Values{"client_id": {clientID}}
	if r.service != "" {
		form.Set("service", r.service)
	}
	if r.scope != "" {
		form.Set("scope", string(r.scope))
	}
	if r.login.Kind == credential.Identity {
		form.Set("grant_type", "refresh_token")
		form.Set("refresh_token", r.login.Secret.Reveal())
		return form
	}
	form.Set("grant_type", "password")
	form.Set("username", r.login.Username)
	form.Set("password", r.login.Secret.Reveal())
	return form
}

// authorization is what a GET carries: the login, an identity token in the place of the password.
func (r tokenRequest) authorization() secret.String {
	login := *r.login
	if login.Kind == credential.Identity && login.Username == "" {
		login.Username = "<token>"
	}
	return login.Basic()
}

// once makes one request.
func (a *Authorizer) once(ctx context.Context, r tokenRequest, f flow, u *url.URL) (*http.Response, error) {
	method, body := http.MethodGet, io.Reader(nil)
	if f == post {
		method, body = http.MethodPost, strings.NewReader(r.form().Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, errors.New("malformed realm")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "container-registry-proxy")
	switch {
	case f == post:
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	case r.login != nil:
		req.Header.Set("Authorization", r.authorization().Reveal())
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

// tokenAnswer is what a token service gives.
type tokenAnswer struct {
	token string
	life  time.Duration
	said  bool // the service said how long the token lives
}

// readToken reads a token service's answer, for example
//
//	{"token": "eyJhbGciOi…", "access_token": "eyJhbGciOi…", "expires_in": 300, "issued_at": "2026-01-02T15:04:05Z"}
//
// either token will do. issued_at is another machine's clock and is not read.
func readToken(body io.Reader) (tokenAnswer, error) {
	b, err := io.ReadAll(io.LimitReader(body, maxTokenBody+1))
	if err != nil {
		return tokenAnswer{}, err
	}
	if len(b) > maxTokenBody {
		return tokenAnswer{}, fmt.Errorf("answer longer than %d bytes", maxTokenBody)
	}
	var answer struct {
		Token       string          `json:"token"`
		AccessToken string          `json:"access_token"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return tokenAnswer{}, errors.New("answer is not the JSON of a token") // the decoder's own words may quote it
	}
	token := answer.Token
	if token == "" {
		token = answer.AccessToken
	}
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return tokenAnswer{}, errors.New("answer holds no token")
	}
	life, said := tokenLife(answer.ExpiresIn)
	return tokenAnswer{token, life, said}, nil
}

// tokenLife reads expires_in: seconds, as a number or, from some, as a string of one. It reports whether it is there.
func tokenLife(raw json.RawMessage) (life time.Duration, said bool) {
	seconds, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	switch {
	case err != nil:
		return minTokenLife, false
	case !(seconds > minTokenLife.Seconds()):
		return minTokenLife, true
	case seconds > maxTokenLife.Seconds():
		return maxTokenLife, true
	}
	return time.Duration(seconds * float64(time.Second)), true
}
