package auth_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream/auth"
)

// canary is the password that must not be seen where it does not belong.
const canary = "CANARY-5b2e7f"

// hostileRealms are what a registry at reg.example.com could name to have its login, or somebody else's, sent elsewhere.
var hostileRealms = []string{
	"https://evil.test/token", "https://evil.test:443/token", "https://reg.example.com.evil.test/token", "https://evil.test/reg.example.com",
	"https://evil.test#reg.example.com", "https://evil.test?reg.example.com", "https://evilreg.example.com.test/", "https://xreg.example.com/token",
	"https://sub.reg.example.com/token", "https://example.com/token", "https://other.example.com/token", "https://com/token",
	"http://reg.example.com/token", "http://reg.example.com:443/token", "HTTP://reg.example.com/token", "http://auth.docker.io/token", "http://evil.test/token",
	"https://user:pass@reg.example.com/token", "https://reg.example.com@evil.test/token", "https://reg.example.com:pass@evil.test/token",
	"https://reg.example.com%40evil.test/token", `https://reg.example.com\@evil.test/token`, `https://evil.test\@reg.example.com/token`,
	`https:\\evil.test\token`, "https:evil.test/token", "https:/evil.test/token", "https:///evil.test/token", "//evil.test/token",
	"/token", "token", "", " ", "https://", "https://:443/token", "ftp://reg.example.com/token", "file:///etc/passwd", "javascript:alert(1)",
	"gopher://reg.example.com/", "unix:///var/run/docker.sock", "https://auth.docker.io/token", "https://gitlab.com/jwt/auth", "https://authn.nvidia.com/token",
	"https://git.other.test/jwt/auth", "https://reg.example.com:99999/token", "https://reg.example.com:0/token", "https://reg.example.com:x/token",
	"https://127.0.0.1/token", "https://127.1/token", "https://[::1]/token", "https://169.254.169.254/latest/meta-data", "https://localhost/token", "https://0/token",
	"https://reg.example.com\r\nX-Evil: 1/token", "https://reg.example.com\x00.evil.test/token", "https://rég.example.com/token", "https://reg。example。com/token",
	"https://reg%2eexample%2ecom/token", "https://[reg.example.com]/token", "https://reg.example.com.co/token", "https://reg-example.com/token",
	"https://" + strings.Repeat("a.", 200) + "test/token", "https://reg.example.com/" + strings.Repeat("x", 8<<10),
}

func TestHostileRealmsGetNoLogin(t *testing.T) {
	t.Parallel()
	if len(hostileRealms) < 40 {
		t.Fatalf("%d realms, want at least 40", len(hostileRealms))
	}
	for _, realm := range hostileRealms {
		for _, lines := range [][]string{
			{fmt.Sprintf(`Bearer realm="%s",service="svc"`, realm)},
			{fmt.Sprintf(`Bearer realm=%s, service=svc`, realm)},
			{"Negotiate", fmt.Sprintf(`Digest realm="x", Bearer service="svc",realm="%s"`, realm)},
			{fmt.Sprintf(`Bearer realm="%s",realm="https://reg.example.com/token"`, realm)},
		} {
			s := &service{}
			a := auth.New(auth.Config{
				Transport: s,
				// Only the registry under attack, and others whose logins it would like, are named.
				Named: named("reg.example.com", "docker.io", "gitlab.com", "git.other.test"),
				Entries: []auth.Entry{
					login("reg.example.com", "user", canary), login("auth.docker.io", "user", canary), login("gitlab.com", "user", canary),
					login("git.other.test", "user", canary), login("nvcr.io", "user", canary),
				},
			})
			got, err := ask(t, a, "reg.example.com", auth.Central, unauthorized(lines...))
			for _, req := range s.requests() {
				if req.Header.Get("Authorization") != "" && !goesHome(req) {
					t.Errorf("%q: a login went to %s://%s", lines, req.URL.Scheme, req.URL.Host)
				}
			}
			if err == nil && !(len(s.requests()) == 1 && goesHome(s.requests()[0])) {
				t.Errorf("%q: answered with %q", lines, got)
			}
			if err != nil && (!errors.Is(err, auth.ErrNoAnswer) || strings.Contains(err.Error(), canary)) {
				t.Errorf("%q: err = %v, want ErrNoAnswer without the password", lines, err)
			}
		}
	}
}

// goesHome reports whether a token request goes where the login of reg.example.com may: an unquoted realm that is cut
// short at a space or comma is no longer hostile.
func goesHome(req *http.Request) bool {
	return req.URL.Scheme == "https" && req.URL.Host == "reg.example.com" && req.URL.User == nil
}

// None of the registries that are asked with no login may learn one, whatever they answer.
func TestAnonymousSendsNoLogin(t *testing.T) {
	t.Parallel()
	for _, realm := range append([]string{"https://reg.example.com/token", "https://ghcr.io/token"}, hostileRealms...) {
		s := &service{}
		a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("reg.example.com", "user", canary), login("auth.docker.io", "user", canary)}})
		_, _ = ask(t, a, "reg.example.com", auth.Anonymous, bearer(realm))
		_, _ = ask(t, a, "reg.example.com", auth.Anonymous, unauthorized(`Basic realm="x"`))
		for _, req := range s.requests() {
			if req.Header.Get("Authorization") != "" || req.URL.Scheme != "https" {
				t.Errorf("realm %q: request to %s with Authorization %q", realm, req.URL, req.Header.Get("Authorization"))
			}
		}
	}
}

func TestPairedRealmsGetTheLogin(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		registry oci.Registry
		realm    string
		entry    string
		named    []string
		pairs    map[oci.Registry][]string
		insecure []string
		refused  bool
	}{
		{name: "the same host", registry: "reg.example.com", realm: "https://reg.example.com/token", entry: "reg.example.com"},
		{name: "the same host in other letters", registry: "reg.example.com", realm: "https://REG.example.com.:443/token", entry: "reg.example.com"},
		{name: "the same host, registry on a port", registry: "git.example.com:5050", realm: "https://git.example.com/jwt/auth", entry: "git.example.com:5050"},
		{name: "the same host, login for the token host", registry: "git.example.com:5050", realm: "https://git.example.com/jwt/auth", entry: "git.example.com"},
		{name: "the same host, login for another port", registry: "git.example.com:5050", realm: "https://git.example.com:9999/jwt/auth", entry: "git.example.com", refused: true},
		{name: "Docker Hub", registry: oci.DockerHub, realm: "https://auth.docker.io/token", entry: "docker.io"},
		{name: "Docker Hub by its index", registry: oci.DockerHub, realm: "https://auth.docker.io/token", entry: "index.docker.io"},
		{name: "Docker Hub by its registry", registry: oci.DockerHub, realm: "https://auth.docker.io/token", entry: "registry-1.docker.io"},
		{name: "Docker Hub by its token host", registry: oci.DockerHub, realm: "https://auth.docker.io/token", entry: "auth.docker.io"},
		{name: "Docker Hub as Docker writes it", registry: oci.DockerHub, realm: "https://auth.docker.io/token", entry: "https://index.docker.io/v1/"},
		{name: "GitLab.com", registry: "registry.gitlab.com", realm: "https://gitlab.com/jwt/auth", entry: "gitlab.com"},
		{name: "GitLab.com by its registry", registry: "registry.gitlab.com", realm: "https://gitlab.com/jwt/auth", entry: "registry.gitlab.com"},
		{name: "NVIDIA", registry: "nvcr.io", realm: "https://authn.nvidia.com/token?x=y", entry: "nvcr.io"},
		{name: "two named hosts of one domain", registry: "reg.example.com", realm: "https://git.example.com/jwt/auth", entry: "git.example.com", named: []string{"reg.example.com"}},
		{name: "two named hosts, the registry's login", registry: "reg.example.com", realm: "https://git.example.com/jwt/auth", entry: "reg.example.com", named: []string{"git.example.com"}},
		{name: "one named host of one domain", registry: "reg.example.com", realm: "https://git.example.com/jwt/auth", entry: "git.example.com", refused: true},
		{name: "two named hosts of one public suffix", registry: "reg.co.uk", realm: "https://git.co.uk/t", entry: "git.co.uk", named: []string{"reg.co.uk"}, refused: true},
		{name: "two tenants of one private suffix", registry: "a.github.io", realm: "https://b.github.io/t", entry: "b.github.io", named: []string{"a.github.io"}, refused: true},
		{name: "two addresses", registry: "10.0.0.1", realm: "https://11.0.0.1/t", entry: "11.0.0.1", named: []string{"10.0.0.1"}, refused: true},
		{name: "a configured pair", registry: "reg.example.com", realm: "https://sso.corp.test/t", entry: "reg.example.com", pairs: map[oci.Registry][]string{"reg.example.com": {"sso.corp.test"}}},
		{name: "a configured pair of another registry", registry: "reg.example.com", realm: "https://sso.corp.test/t", entry: "reg.example.com", pairs: map[oci.Registry][]string{"other.example.com": {"sso.corp.test"}}, refused: true},
		{name: "a built-in pair of another registry", registry: "reg.example.com", realm: "https://auth.docker.io/token", entry: "auth.docker.io", refused: true},
		{name: "a plain registry", registry: "http://reg.local:5000", realm: "http://reg.local:5001/t", entry: "http://reg.local:5000"},
		{name: "a plain registry, and a login for TLS", registry: "http://reg.local:5000", realm: "http://reg.local:5001/t", entry: "reg.local:5000", refused: true},
		{name: "a plain registry, and a login for TLS, verification off", registry: "http://reg.local:5000", realm: "http://reg.local:5001/t", entry: "reg.local:5000", insecure: []string{"reg.local"}},
		{name: "a TLS registry, and a login for plain HTTP", registry: "reg.local:5000", realm: "https://reg.local:5001/t", entry: "http://reg.local:5000", refused: true},
		{name: "a plain registry and another host", registry: "http://reg.local:5000", realm: "http://auth.local/t", entry: "http://reg.local:5000", refused: true},
		{name: "plain HTTP for a TLS registry", registry: "reg.example.com", realm: "http://reg.example.com/t", entry: "reg.example.com", refused: true},
		{name: "plain HTTP for an insecure host", registry: "reg.example.com", realm: "http://reg.example.com/t", entry: "reg.example.com", insecure: []string{"reg.example.com"}},
		{name: "another registry's login", registry: "reg.example.com", realm: "https://reg.example.com/t", entry: "reg.example.org", refused: true},
		{name: "the login of a suffix", registry: "reg.example.com", realm: "https://reg.example.com/t", entry: "example.com", refused: true},
		{name: "the login of another port", registry: "reg.example.com:444", realm: "https://reg.example.com:444/t", entry: "reg.example.com", refused: true},
		{name: "Docker Hub in plain HTTP", registry: "http://docker.io", realm: "http://docker.io/t", entry: "docker.io", refused: true},
		{name: "Docker Hub in plain HTTP, verification off", registry: "http://docker.io", realm: "http://docker.io/t", entry: "docker.io", insecure: []string{"docker.io", "registry-1.docker.io"}, refused: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &service{}
			a := auth.New(auth.Config{
				Transport: s, Entries: []auth.Entry{login(tt.entry, "user", canary)}, Named: named(tt.named...), Pairs: tt.pairs, Insecure: named(tt.insecure...),
			})
			got, err := ask(t, a, tt.registry, auth.Central, bearer(tt.realm))
			if tt.refused {
				if !errors.Is(err, auth.ErrNoAnswer) || len(s.requests()) != 0 {
					t.Fatalf("Answer = %q, %v after %d token requests, want ErrNoAnswer and none", got, err, len(s.requests()))
				}
				return
			}
			if err != nil || got != "Bearer t1" {
				t.Fatalf("Answer = %q, %v, want the token", got, err)
			}
			if !a.HasCentral(tt.registry) {
				t.Error("HasCentral = false, want true")
			}
			if sent := s.requests()[0].Header.Get("Authorization"); sent != basicOf("user", canary) {
				t.Errorf("token service saw %q, want the login", sent)
			}
		})
	}
}

// A login for the token host is for the token host: the registry does not get it by asking for Basic.
func TestTokenHostLoginStaysThere(t *testing.T) {
	t.Parallel()
	a := auth.New(auth.Config{Transport: &service{}, Entries: []auth.Entry{login("git.example.com", "user", canary)}, Named: named("reg.example.com")})
	if !a.HasCentral("reg.example.com") {
		t.Error("HasCentral before the registry challenged = false, want true: the token host is paired with it")
	}
	got, err := ask(t, a, "reg.example.com", auth.Central, unauthorized(`Basic realm="reg"`))
	if !errors.Is(err, auth.ErrNoAnswer) || got != "" {
		t.Errorf("Answer to Basic = %q, %v, want ErrNoAnswer", got, err)
	}
	if a.HasCentral("reg.example.com") {
		t.Error("HasCentral after a Basic challenge = true, want false: the login does not serve it")
	}
}
