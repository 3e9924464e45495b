package upstream_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// tokenRegistry is a registry with a token service of its own name and a store of blobs that wants no Authorization.
type tokenRegistry struct {
	registry, service, store string
	issued                   atomic.Int32
	valid                    atomic.Int32 // the number of the token that is taken
}

func newTokenRegistry(w *world, registryName, serviceName string) *tokenRegistry {
	r := &tokenRegistry{}
	r.service = w.https(serviceName, func(rw http.ResponseWriter, req *http.Request) {
		n := r.issued.Add(1)
		who := "anonymous"
		if user, password, ok := req.BasicAuth(); ok {
			if user != "user" || password != canary {
				http.Error(rw, "denied", http.StatusUnauthorized)
				return
			}
			who = user
		}
		r.valid.Store(n)
		fmt.Fprintf(rw, `{"access_token":"%s-%s-%d","expires_in":300}`, who, strings.ReplaceAll(req.URL.Query().Get("scope"), ":", "."), n)
	})
	r.store = w.https("store.test", func(rw http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			http.Error(rw, "Only one auth mechanism allowed", http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(rw, "blob")
	})
	r.registry = w.https(registryName, func(rw http.ResponseWriter, req *http.Request) {
		repo, _, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/v2/"), "/blobs/")
		who := "user"
		if strings.HasPrefix(repo, "public") {
			who = "anonymous"
		}
		if req.Header.Get("Authorization") != fmt.Sprintf("Bearer %s-repository.%s.pull-%d", who, repo, r.valid.Load()) {
			rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="https://%s/token",service="reg",scope="repository:%s:pull"`, r.service, repo))
			http.Error(rw, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		http.Redirect(rw, req, "https://"+r.store+"/x?X-Signature="+canary, http.StatusTemporaryRedirect)
	})
	return r
}

func TestTokenFlow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newTokenRegistry(w, "reg.example.test", "git.example.test")
	c := w.client(func(c *upstream.Config) {
		c.Entries = []auth.Entry{login(r.service)}
		c.Named = func(host string) bool { return host == "reg.example.test" }
	})
	pull := func(repo string, as auth.Identity) (int, string) {
		t.Helper()
		return get(t, c, upstream.Request{Registry: registry(t, r.registry), Path: "/v2/" + repo + "/blobs/x", Scope: auth.PullScope(repo), As: as})
	}
	for i, step := range []struct {
		what         string
		repo         string
		as           auth.Identity
		status       int
		asked, token int // requests to the registry and the token service so far
	}{
		{"the first pull learns the challenge", "private", auth.Central, 200, 2, 1},
		{"the second knows it", "private", auth.Central, 200, 3, 1},
		{"another repository needs another token, at once", "private2", auth.Central, 200, 4, 2},
		{"the first token is refused by now, and refreshed once", "private", auth.Central, 200, 6, 3},
		{"nobody else gets a private blob", "private", auth.Anonymous, 401, 8, 5},
		{"anybody gets a public blob", "public", auth.Anonymous, 200, 9, 6},
		{"a client's own token is sent and not replaced", "private", auth.Own(secret.New("Bearer mine")), 401, 10, 6},
	} {
		status, body := pull(step.repo, step.as)
		if status != step.status || status == 200 && body != "blob" {
			t.Errorf("step %d, %s: %d %q, want %d", i+1, step.what, status, body, step.status)
		}
		if asked, token := len(w.requests(r.registry)), len(w.requests(r.service)); asked != step.asked || token != step.token {
			t.Errorf("step %d, %s: %d requests to the registry and %d to its token service, want %d and %d", i+1, step.what, asked, token, step.asked, step.token)
		}
	}
	for _, s := range w.requests(r.registry) {
		if strings.HasPrefix(s.header.Get("Authorization"), "Basic") {
			t.Error("the registry saw the login of the token host")
		}
	}
	if strings.Contains(w.logs.String(), canary) {
		t.Error("the log shows a secret")
	}
}

// A registry that names a stranger's token service gets no token minted with anybody's login.
func TestUnpairedRealmMintsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newTokenRegistry(w, "evil.test", "git.example.test")
	c := w.client(func(c *upstream.Config) { c.Entries = []auth.Entry{login(r.registry), login(r.service)} })
	status, body := get(t, c, upstream.Request{Registry: registry(t, r.registry), Path: "/v2/private/blobs/x", Scope: auth.PullScope("private"), As: auth.Central})
	if status != http.StatusUnauthorized || !strings.Contains(body, "UNAUTHORIZED") {
		t.Errorf("%d %q, want the registry's own 401", status, body)
	}
	if n := len(w.requests(r.service)); n != 0 {
		t.Errorf("%d token requests, want 0", n)
	}
}

// cr.l5d.io redirects to ghcr.io, which wants an anonymous token.
func TestVanityName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newTokenRegistry(w, "ghcr.test", "token.ghcr.test")
	vanity := w.https("vanity.test", func(rw http.ResponseWriter, req *http.Request) {
		http.Redirect(rw, req, "https://"+r.registry+req.RequestURI, http.StatusTemporaryRedirect)
	})
	c := w.client(func(c *upstream.Config) { c.Entries = []auth.Entry{login(vanity), login(r.registry), login(r.service)} })
	for _, as := range []auth.Identity{auth.Anonymous, auth.Central, auth.Own(secret.New("Bearer " + canary))} {
		status, body := get(t, c, upstream.Request{Registry: registry(t, vanity), Path: "/v2/public/blobs/x", Scope: auth.PullScope("public"), As: as})
		if status != 200 || body != "blob" {
			t.Errorf("%d %q, want the blob", status, body)
		}
	}
	for _, site := range []string{r.registry, r.service, r.store} {
		for _, s := range w.requests(site) {
			if strings.Contains(fmt.Sprint(s.header), canary) || strings.HasPrefix(s.header.Get("Authorization"), "Basic") {
				t.Errorf("%s saw %v", s.site, s.header)
			}
		}
	}
}

func TestTokenServiceTrouble(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	service := w.https("reg.test", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusServiceUnavailable) })
	reg := w.https("reg.test", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("WWW-Authenticate", `Bearer realm="https://`+service+`/token"`)
		rw.WriteHeader(http.StatusUnauthorized)
	})
	c := w.client()
	for range 2 { // once by the challenge, once by what is remembered of it
		_, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"})
		if _, ok := errors.AsType[*upstream.UnreachableError](err); !ok || !strings.Contains(err.Error(), "token service answered 503") {
			t.Errorf("err = %v, want an UnreachableError that says who is in trouble", err)
		}
	}
}

// A push is sent once, as it is: no challenge is answered in its name.
func TestRequestWithABodyIsSentOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newTokenRegistry(w, "reg.test", "reg.test")
	c := w.client(func(c *upstream.Config) { c.Entries = []auth.Entry{login(r.registry)} })
	status, _ := get(t, c, upstream.Request{Method: http.MethodPut, Registry: registry(t, r.registry), Path: "/v2/private/manifests/x", As: auth.Central, Body: strings.NewReader("{}"), ContentLength: 2})
	if asked := len(w.requests(r.registry)); status != http.StatusUnauthorized || asked != 1 || len(w.requests(r.service)) != 0 {
		t.Errorf("%d after %d requests, want the 401 of the one", status, asked)
	}
}
