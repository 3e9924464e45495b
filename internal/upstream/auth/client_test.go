package auth_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream/auth"
)

// clientAsks is ClientToken for a GET of a URL, with the headers "Name: value".
func clientAsks(t *testing.T, a *auth.Authorizer, method, target string, headers ...string) *http.Response {
	t.Helper()
	req := httptest.NewRequest(method, target, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	host, err := oci.ParseRegistry(req.Host)
	if err != nil {
		t.Fatal(err)
	}
	return a.ClientToken(t.Context(), host, req, func(oci.Registry, string) bool { return true })
}

const scopeOf = "?service=svc&scope=repository:a/b:pull"

func TestClientToken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, method, target string
		headers              []string
		ok                   bool
	}{
		{name: "as the registry named it", target: "https://git.example.com/jwt/auth" + scopeOf, ok: true},
		{name: "without a service", target: "https://git.example.com/jwt/auth?scope=repository:a/b:pull", ok: true},
		{name: "with an empty login", target: "https://git.example.com/jwt/auth" + scopeOf, headers: []string{"Authorization: Basic Og=="}, ok: true},
		{name: "another path", target: "https://git.example.com/jwt/authx" + scopeOf},
		{name: "another spelling of the path", target: "https://git.example.com/jwt/../jwt/auth" + scopeOf},
		{name: "another host", target: "https://other.example.com/jwt/auth" + scopeOf},
		{name: "another port", target: "https://git.example.com:444/jwt/auth" + scopeOf},
		{name: "another service", target: "https://git.example.com/jwt/auth?service=x&scope=repository:a/b:pull"},
		{name: "with a login", target: "https://git.example.com/jwt/auth" + scopeOf, headers: []string{"Authorization: Basic dTpw"}},
		{name: "with a token", target: "https://git.example.com/jwt/auth" + scopeOf, headers: []string{"Authorization: Bearer x"}},
		{name: "by POST", method: "POST", target: "https://git.example.com/jwt/auth" + scopeOf},
		{name: "by HEAD", method: "HEAD", target: "https://git.example.com/jwt/auth" + scopeOf},
		{name: "no scope", target: "https://git.example.com/jwt/auth?service=svc"},
		{name: "to push", target: "https://git.example.com/jwt/auth?service=svc&scope=repository:a/b:push"},
		{name: "a repository without a login", target: "https://git.example.com/jwt/auth?service=svc&scope=repository:other:pull"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &service{answer: func(int, *http.Request) (*http.Response, error) {
				return reply(200, `{"token":"x","refresh_token":"`+canary+`","expires_in":300,"scope":"all"}`), nil
			}}
			a := auth.New(auth.Config{
				Transport: s, Pairs: map[oci.Registry][]string{reg: {"git.example.com"}},
				Logins: &book{logins: map[string]credential.Login{string(reg) + "/a/b": password("u")}},
			})
			if _, err := ask(t, a, reg, auth.Central, bearer("https://git.example.com/jwt/auth")); err != nil {
				t.Fatal(err)
			}
			if tt.method == "" {
				tt.method = http.MethodGet
			}
			resp := clientAsks(t, a, tt.method, tt.target, tt.headers...)
			if (resp != nil) != tt.ok {
				t.Fatalf("answered: %v, want %v", resp != nil, tt.ok)
			}
			want := 1
			if tt.ok {
				want = 2 // the answer to the client is its own, and not kept
				body, _ := io.ReadAll(resp.Body)
				var got map[string]any
				if err := json.Unmarshal(body, &got); err != nil || got["token"] != "x" || got["access_token"] != "x" || got["expires_in"] != 300.0 || got["issued_at"] == nil || len(got) != 4 {
					t.Errorf("answer %s", body)
				}
				if resp.Header.Get("Cache-Control") != "no-store" || resp.ContentLength != int64(len(body)) {
					t.Errorf("headers %v of %d bytes", resp.Header, len(body))
				}
				query := s.requests()[1].URL.Query()
				if query.Get("scope") != "repository:a/b:pull" || query.Get("service") != "svc" || len(query) != 2 {
					t.Errorf("asked for %v", query)
				}
			}
			if n := len(s.requests()); n != want {
				t.Errorf("%d token requests, want %d", n, want)
			}
		})
	}
}

// Docker Hub's token service is known before Docker Hub has been asked.
func TestClientTokenOfDockerHub(t *testing.T) {
	t.Parallel()
	s := &service{}
	a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("auth.docker.io", "user", "pw")}})
	resp := clientAsks(t, a, "GET", "https://auth.docker.io/token?service=registry.docker.io&scope=repository:library/alpine:pull,push&offline_token=true&account=x")
	if resp == nil {
		t.Fatal("no token")
	}
	req := s.requests()[0]
	if req.Header.Get("Authorization") != basicOf("user", "pw") || req.URL.String() != "https://auth.docker.io/token?scope=repository%3Alibrary%2Falpine%3Apull&service=registry.docker.io" {
		t.Errorf("asked at %s with %q", req.URL, req.Header.Get("Authorization"))
	}
	if clientAsks(t, a, "GET", "https://gitlab.com/jwt/auth?service=container_registry&scope=repository:a/b:pull") != nil {
		t.Error("a login for Docker Hub was used at GitLab")
	}
}

// A login that is refused is noted, and the client's request goes on as it came.
func TestClientTokenThatIsRefused(t *testing.T) {
	t.Parallel()
	s := &service{answer: func(int, *http.Request) (*http.Response, error) { return reply(401, ""), nil }}
	a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("docker.io", "user", canary)}})
	for range 3 {
		if clientAsks(t, a, "GET", "https://auth.docker.io/token?service=registry.docker.io&scope=repository:library/alpine:pull") != nil {
			t.Error("answered")
		}
	}
	if len(s.requests()) != 1 || !a.Refused(t.Context(), oci.DockerHub, "library/alpine") {
		t.Errorf("%d token requests, want 1 and a mark", len(s.requests()))
	}
}

// A token is of one login: what others open is left away.
func TestClientTokenForSeveralRepositories(t *testing.T) {
	t.Parallel()
	s := &service{}
	a := auth.New(auth.Config{Transport: s, Logins: &book{logins: map[string]credential.Login{
		string(reg) + "/a/b": password("u"), string(reg) + "/a/c": password("u"), string(reg) + "/x": password("x"),
	}}})
	if _, err := ask(t, a, reg, auth.Central, bearer("https://reg.example.com/token")); err != nil {
		t.Fatal(err)
	}
	resp := clientAsks(t, a, "GET", "https://reg.example.com/token?service=svc&scope=repository:a/b:pull&scope=repository:x:pull&scope=repository:a/c:pull")
	if resp == nil {
		t.Fatal("no token")
	}
	if got := s.requests()[1].URL.Query()["scope"]; strings.Join(got, " ") != "repository:a/b:pull repository:a/c:pull" {
		t.Errorf("asked for %q", got)
	}
}

// What the login is refused for is left away too, and a login that rests is not shown.
func TestClientTokenForARefusedRepository(t *testing.T) {
	t.Parallel()
	s := &service{}
	a := auth.New(auth.Config{Transport: s, Logins: &book{logins: map[string]credential.Login{string(reg): password("u")}}})
	sent, err := ask(t, a, reg, auth.Central, bearer("https://reg.example.com/token"))
	if err != nil {
		t.Fatal(err)
	}
	a.Learn(t.Context(), reg, auth.PullScope("denied/app"), auth.Central, secret.New(sent), 403)
	if clientAsks(t, a, "GET", "https://reg.example.com/token?service=svc&scope=repository:denied/app:pull") != nil || len(s.requests()) != 1 {
		t.Error("a token was asked for with a login that rests")
	}
	if clientAsks(t, a, "GET", "https://reg.example.com/token?service=svc&scope=repository:good/app:pull&scope=repository:denied/app:pull") == nil {
		t.Fatal("no token")
	}
	if got := s.requests()[1].URL.Query()["scope"]; strings.Join(got, " ") != "repository:good/app:pull" {
		t.Errorf("asked for %q", got)
	}
}

// Two registries with one token service are told apart by the service's name, or not at all.
func TestClientTokenOfSharedServices(t *testing.T) {
	t.Parallel()
	s := &service{}
	a := auth.New(auth.Config{
		Transport: s, Entries: []auth.Entry{login("one.example.com", "one", "pw"), login("two.example.com", "two", "pw")},
		Named: named("sso.example.com"),
	})
	for _, name := range []string{"one", "two"} {
		challenge := unauthorized(`Bearer realm="https://sso.example.com/token",service="` + name + `"`)
		if _, err := ask(t, a, oci.Registry(name+".example.com"), auth.Central, challenge); err != nil {
			t.Fatal(err)
		}
	}
	if clientAsks(t, a, "GET", "https://sso.example.com/token?scope=repository:a/b:pull") != nil {
		t.Error("a login was guessed")
	}
	for i, name := range []string{"one", "two"} {
		if clientAsks(t, a, "GET", "https://sso.example.com/token?service="+name+"&scope=repository:a/b:pull") == nil {
			t.Errorf("%s: no token", name)
			continue
		}
		if got := s.requests()[2+i].Header.Get("Authorization"); got != basicOf(name, "pw") {
			t.Errorf("%s: asked as %q", name, got)
		}
	}
}
