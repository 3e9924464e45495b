package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

// wellKnown are the challenges of registries whose token services clients know by heart, for as long as the registry
// itself has not been asked.
func wellKnown() map[oci.Registry]challenge {
	return map[oci.Registry]challenge{
		oci.DockerHub:         {"bearer", map[string]string{"realm": "https://auth.docker.io/token", "service": "registry.docker.io"}},
		"registry.gitlab.com": {"bearer", map[string]string{"realm": "https://gitlab.com/jwt/auth", "service": "container_registry"}},
	}
}

// ClientToken makes a client's token request to a host that is intercepted, with the operator's login, and returns the
// answer to relay. It does so for a GET without Authorization at the realm that a registry has named, where the operator
// has a login for the repositories that it asks for and realm and registry are paired; otherwise, and where the login is
// refused, it returns nil, and the request is to be passed on as it came.
//
// The token is for pulling alone, whatever the request asks for, and what a service adds to it stays here: a refresh
// token would outlive the client's right to it. The answer is not kept. It is for those
// repositories alone that the client may pull.
func (a *Authorizer) ClientToken(ctx context.Context, host oci.Registry, r *http.Request, may func(reg oci.Registry, repository string) bool) *http.Response {
	if r.Method != http.MethodGet || !anonymous(r) {
		return nil
	}
	query := r.URL.Query()
	request, found := a.serving(host, r.URL.Path, query.Get("service"))
	if !found {
		return nil
	}
	q := question{registry: request.registry, as: Central}
	for _, repository := range pulls(query["scope"]) {
		if !may(request.registry, repository) {
			continue
		}
		q.scope = PullScope(repository)
		login, err := a.loginAt(ctx, q, request.realm)
		if a.usable(ctx, q, login, err) != nil || request.login != nil && !login.Same(*request.login) {
			continue // a token is of one login
		}
		request.login = &login.Login
		request.scope += " " + q.scope
	}
	if request.login == nil {
		return nil
	}
	var answer tokenAnswer
	q.scope = Scope(strings.TrimSpace(string(request.scope)))
	request.scope = q.scope
	_, err := a.asCentral(ctx, q, request, func(ctx context.Context, request tokenRequest) (header secret.String, err error) {
		ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
		defer cancel()
		answer, err = a.exchange(ctx, request)
		return secret.String{}, err
	})
	if refused, ok := err.(*refusedError); ok {
		a.refusals.note(ctx, q.registry, q.scope.repository(), refused)
	}
	if err != nil || answer.token == "" {
		return nil
	}
	return answer.response()
}

// anonymous reports whether a request carries no login. An empty Basic is none.
func anonymous(r *http.Request) bool {
	if user, password, ok := r.BasicAuth(); ok && user == "" && password == "" {
		return true
	}
	return r.Header.Get("Authorization") == ""
}

// serving is the question to ask at a path of a host that issues tokens for a registry: one that named it as its realm,
// under that name of a service, or one that is well known. If there are several without a name to tell them by, none is.
func (a *Authorizer) serving(host oci.Registry, path, service string) (request tokenRequest, found bool) {
	several := false
	match := func(reg oci.Registry, c challenge) {
		r, err := parseRealm(c.parameters["realm"])
		if c.scheme != "bearer" || err != nil || r.registry != host || r.url.Path != path || !a.protected(reg, r) || !a.paired(reg, r.host) {
			return
		}
		if service != "" && service != c.parameters["service"] {
			return
		}
		several = several || found && request.registry != reg
		request, found = tokenRequest{registry: reg, realm: r, service: c.parameters["service"]}, true
	}
	known := map[oci.Registry]bool{}
	a.challenged.each(func(reg oci.Registry, challenges []challenge) {
		known[reg] = true
		for _, c := range challenges {
			match(reg, c)
		}
	})
	for reg, c := range wellKnown() {
		if !known[reg] {
			match(reg, c)
		}
	}
	return request, found && !several
}

// pulls are the repositories that scopes ask to pull, each once: of "repository:a/b:pull,push registry:catalog:*" it is
// a/b.
func pulls(scopes []string) []string {
	var repositories []string
	for part := range strings.FieldsSeq(strings.Join(scopes, " ")) {
		rest, ok := strings.CutPrefix(part, "repository:")
		i := strings.LastIndexByte(rest, ':')
		if !ok || i < 0 || oci.ValidRepository(rest[:i]) != nil || slices.Contains(repositories, rest[:i]) {
			continue
		}
		if actions := strings.Split(rest[i+1:], ","); slices.Contains(actions, "pull") || slices.Contains(actions, "*") {
			repositories = append(repositories, rest[:i])
		}
	}
	return repositories
}

// response is what a client is given of an answer.
func (t tokenAnswer) response() *http.Response {
	doc := struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in,omitempty"`
		IssuedAt    string `json:"issued_at"`
	}{Token: t.token, AccessToken: t.token, IssuedAt: time.Now().UTC().Format(time.RFC3339)}
	if t.said {
		doc.ExpiresIn = int(t.life / time.Second)
	}
	body, _ := json.Marshal(doc) // strings and a number cannot fail
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"Content-Type": {"application/json"}, "Content-Length": {strconv.Itoa(len(body))}, "Cache-Control": {"no-store"},
		},
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
}
