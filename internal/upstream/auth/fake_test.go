package auth_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream/auth"
)

// service is a token service, every one of them: it answers whatever host is asked, and remembers what it was asked.
type service struct {
	// answer makes the answer to the nth request, from 1; nil gives token n for 300 s.
	answer func(n int, req *http.Request) (*http.Response, error)

	mu   sync.Mutex
	seen []*http.Request
}

func (s *service) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.seen = append(s.seen, req)
	n := len(s.seen)
	s.mu.Unlock()
	if s.answer != nil {
		return s.answer(n, req)
	}
	return reply(200, fmt.Sprintf(`{"token":"t%d","expires_in":300}`, n)), nil
}

func (s *service) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.seen...)
}

func reply(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

// unauthorized is a 401 with these WWW-Authenticate lines.
func unauthorized(lines ...string) *http.Response {
	resp := reply(401, "")
	resp.Header["Www-Authenticate"] = lines
	return resp
}

func bearer(realm string) *http.Response {
	return unauthorized(fmt.Sprintf(`Bearer realm="%s",service="svc",scope="repository:a/b:pull"`, realm))
}

// login makes an entry from "host:user:password", or with another delimiter.
func login(host, user, password string) auth.Entry {
	return auth.Entry{Host: host, Credential: auth.Credential{Username: user, Password: secret.New(password)}}
}

func basicOf(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// named is a set of hosts.
func named(hosts ...string) func(string) bool {
	return func(host string) bool {
		for _, h := range hosts {
			if h == host {
				return true
			}
		}
		return false
	}
}

// ask is Answer to a first 401.
func ask(t *testing.T, a *auth.Authorizer, reg oci.Registry, id auth.Identity, resp *http.Response) (string, error) {
	t.Helper()
	header, err := a.Answer(t.Context(), reg, auth.PullScope("a/b"), id, resp, secret.String{})
	return header.Reveal(), err
}
