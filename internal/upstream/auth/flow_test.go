package auth_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream/auth"
)

// form reads the question of a POST.
func form(t *testing.T, req *http.Request) url.Values {
	t.Helper()
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Error(err)
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		t.Errorf("form %q: %v", body, err)
	}
	return values
}

// asked spells how a service was asked, without the question.
func asked(s *service) string {
	var out []string
	for _, req := range s.requests() {
		out = append(out, req.Method)
	}
	return strings.Join(out, " ")
}

func TestFlows(t *testing.T) {
	t.Parallel()
	const password, identity, nobody = "password", "identity", "nobody"
	for _, tt := range []struct {
		name, as  string
		get, post int    // what the service answers
		want      string // how it is asked, for two tokens
		ok        bool
	}{
		{"nobody", nobody, 200, 200, "GET GET", true},
		{"nobody, where only POST is spoken", nobody, 405, 200, "GET GET", false},
		{"a password", password, 200, 404, "GET GET", true},
		{"a password, where GET is unknown", password, 404, 200, "GET POST POST", true},
		{"a password, where GET is not allowed", password, 405, 200, "GET POST POST", true},
		{"a password, where GET is not implemented", password, 501, 200, "GET POST POST", true},
		{"a wrong password", password, 401, 200, "GET", false},
		{"a password, forbidden", password, 403, 200, "GET GET", false},
		{"a wrong password for POST", password, 404, 401, "GET POST", false},
		{"a password that nobody wants", password, 404, 404, "GET POST GET POST", false},
		{"an identity token", identity, 200, 200, "POST POST", true},
		{"an identity token at Google", identity, 200, 404, "POST GET GET", true},
		{"an identity token at Artifactory", identity, 200, 401, "POST GET GET", true},
		{"an identity token at Azure", identity, 200, 400, "POST GET GET", true},
		{"an identity token where POST is not allowed", identity, 200, 405, "POST GET GET", true},
		{"a wrong identity token", identity, 401, 401, "POST GET", false},
		{"a wrong identity token where GET is unknown", identity, 404, 401, "POST GET", false},
		{"an identity token, forbidden", identity, 200, 403, "POST POST", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &service{answer: func(n int, req *http.Request) (*http.Response, error) {
				status := tt.get
				if req.Method == http.MethodPost {
					status = tt.post
				}
				return reply(status, fmt.Sprintf(`{"access_token":"t%d"}`, n)), nil
			}}
			user, id := "user", auth.Central
			switch tt.as {
			case identity:
				user = "<token>"
			case nobody:
				id = auth.Anonymous
			}
			a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("reg.example.com", user, canary)}})
			for _, repository := range []string{"a/b", "c/d"} {
				header, err := a.Answer(t.Context(), "reg.example.com", auth.PullScope(repository), id, bearer(realmURL), secret.String{})
				if tt.ok != (err == nil) || tt.ok && !strings.HasPrefix(header.Reveal(), "Bearer t") {
					t.Errorf("%s: %q, %v", repository, header.Reveal(), err)
				}
				if err != nil && (!errors.Is(err, auth.ErrNoAnswer) || strings.Contains(err.Error(), canary)) {
					t.Errorf("%s: err = %v, want ErrNoAnswer without the secret", repository, err)
				}
			}
			if got := asked(s); got != tt.want {
				t.Errorf("asked by %s, want %s", got, tt.want)
			}
		})
	}
}

// The OAuth2 flow as the distribution project's specification has it.
func TestOAuth2Request(t *testing.T) {
	t.Parallel()
	for user, want := range map[string]url.Values{
		"user":    {"grant_type": {"password"}, "username": {"user"}, "password": {"p w&=+%"}},
		"<token>": {"grant_type": {"refresh_token"}, "refresh_token": {"p w&=+%"}},
	} {
		s := &service{answer: func(_ int, req *http.Request) (*http.Response, error) {
			if req.Method == http.MethodGet {
				return reply(405, ""), nil
			}
			want.Set("service", "svc")
			want.Set("scope", "repository:a/b:pull repository:c/d:pull")
			want.Set("client_id", "container-registry-proxy")
			if got := form(t, req); got.Encode() != want.Encode() {
				t.Errorf("%s: asked for %v, want %v", user, got, want)
			}
			if req.Header.Get("Authorization") != "" || req.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || req.URL.String() != realmURL {
				t.Errorf("%s: asked at %s with %v", user, req.URL, req.Header)
			}
			return reply(200, `{"access_token":"x","refresh_token":"y","expires_in":300,"scope":"whatever"}`), nil
		}}
		a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("reg.example.com", user, "p w&=+%")}})
		header, err := a.Answer(t.Context(), "reg.example.com", "repository:a/b:pull repository:c/d:pull", auth.Central, bearer(realmURL), secret.String{})
		if err != nil || header.Reveal() != "Bearer x" {
			t.Errorf("%s: %q, %v", user, header.Reveal(), err)
		}
	}
}

// An identity token is for a token service: a registry that wants a password does not get it.
func TestIdentityTokenIsNoPassword(t *testing.T) {
	t.Parallel()
	a := auth.New(auth.Config{Entries: []auth.Entry{login("reg.example.com", "<token>", canary)}})
	got, err := ask(t, a, "reg.example.com", auth.Central, unauthorized(`Basic realm="x"`))
	if !errors.Is(err, auth.ErrNoAnswer) || got != "" {
		t.Errorf("%q, %v, want ErrNoAnswer", got, err)
	}
	if !a.Refused(t.Context(), "reg.example.com", "a/b") {
		t.Error("is said to be of use")
	}
}

func TestTokenServiceThatSendsOn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		location string
		status   int
		followed bool
	}{
		{"/token/", 307, true}, {"/token/", 308, true}, {"/token/", 301, true}, {"/token/", 302, true}, {"/token/", 303, true},
		{"https://reg.example.com/other?x=1", 307, true}, {"https://REG.example.com.:443/other", 307, true}, {"//reg.example.com/other", 307, true}, {"other", 302, true},
		{"", 307, false}, {"https://evil.test/token", 307, false}, {"//evil.test/token", 307, false}, {"http://reg.example.com/token", 307, false},
		{"https://reg.example.com:444/token", 307, false}, {"https://user@reg.example.com/token", 307, false}, {"https://sub.reg.example.com/token", 302, false},
		{`https:\\reg.example.com/`, 302, false}, {"https://reg.example.com@evil.test/", 302, false}, {"/token/#x", 302, false}, {"\x00", 302, false},
	} {
		for _, user := range []string{"user", "<token>"} {
			s := &service{answer: func(n int, req *http.Request) (*http.Response, error) {
				if n > 1 {
					return reply(200, `{"token":"x"}`), nil
				}
				resp := reply(tt.status, "")
				resp.Header.Set("Location", tt.location)
				return resp, nil
			}}
			a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("reg.example.com", user, canary)}})
			got, err := ask(t, a, "reg.example.com", auth.Central, bearer("https://reg.example.com/token"))
			// A POST that becomes a GET would lose the question.
			followed := tt.followed && (user == "user" || tt.status > 303)
			if followed != (err == nil) || followed != (len(s.requests()) == 2) {
				t.Errorf("%s: %d to %q: %q, %v after %d requests", user, tt.status, tt.location, got, err, len(s.requests()))
			}
			for _, req := range s.requests() {
				if req.URL.Scheme != "https" || req.URL.Host != "reg.example.com" {
					t.Errorf("%s: %d to %q: asked at %s", user, tt.status, tt.location, req.URL)
				}
			}
		}
	}
	// Not for ever.
	s := &service{answer: func(int, *http.Request) (*http.Response, error) {
		resp := reply(307, "")
		resp.Header.Set("Location", "/token")
		return resp, nil
	}}
	a := auth.New(auth.Config{Transport: s})
	if _, err := ask(t, a, "reg.example.com", auth.Anonymous, bearer("https://reg.example.com/token")); !errors.Is(err, auth.ErrNoAnswer) || len(s.requests()) > 5 {
		t.Errorf("a loop: %v after %d requests", err, len(s.requests()))
	}
}

// ECR's public registry answers 400 to a token that has expired, without a challenge.
func TestTokenThatExpiredWithoutAChallenge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		a := auth.New(auth.Config{Transport: s})
		first, err := ask(t, a, "public.ecr.example.com", auth.Anonymous, bearer("https://public.ecr.example.com/token/"))
		if err != nil {
			t.Fatal(err)
		}
		answer := func(status int, sent string) (string, error) {
			header, err := a.Answer(t.Context(), "public.ecr.example.com", auth.PullScope("a/b"), auth.Anonymous, reply(status, ""), secret.New(sent))
			return header.Reveal(), err
		}
		if got, err := answer(400, first); !errors.Is(err, auth.ErrNoAnswer) {
			t.Errorf("a fresh token: %q, %v, want the 400 to stand", got, err)
		}
		time.Sleep(30 * time.Second)
		for _, status := range []int{403, 404, 500} {
			if got, err := answer(status, first); !errors.Is(err, auth.ErrNoAnswer) {
				t.Errorf("%d: %q, %v, want it to stand", status, got, err)
			}
		}
		second, err := answer(400, first)
		if err != nil || second == first || len(s.requests()) != 2 {
			t.Errorf("an old token: %q, %v after %d requests, want another", second, err, len(s.requests()))
		}
		if got, err := answer(400, second); !errors.Is(err, auth.ErrNoAnswer) || len(s.requests()) != 2 {
			t.Errorf("the second: %q, %v, want the 400 to stand", got, err)
		}
	})
}

func TestScopesOfClients(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		scopes []string
		want   []string
	}{
		{nil, nil}, {[]string{""}, nil}, {[]string{"repository:a/b:pull"}, []string{"a/b"}},
		{[]string{"repository:a/b:pull,push", "repository:c:push,pull,delete"}, []string{"a/b", "c"}},
		{[]string{"repository:a/b:pull repository:c:pull repository:a/b:push,pull"}, []string{"a/b", "c"}},
		{[]string{"repository:a/b:*"}, []string{"a/b"}}, {[]string{"repository:a/b:push"}, nil}, {[]string{"repository:a/b:pullx"}, nil},
		{[]string{"registry:catalog:*"}, nil}, {[]string{"repository(plugin):a/b:pull"}, nil}, {[]string{"repository:a/b"}, nil},
		{[]string{"repository:../x:pull", "repository:A:pull", "repository::pull", "repository:a:b:pull", "*"}, nil},
	} {
		if got := auth.Pulls(tt.scopes); !slices.Equal(got, tt.want) {
			t.Errorf("%q: %q, want %q", tt.scopes, got, tt.want)
		}
	}
}
