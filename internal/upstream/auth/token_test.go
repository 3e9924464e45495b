package auth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream/auth"
)

const realmURL = "https://reg.example.com/token?keep=this"

// known returns an authorizer that has met the challenge of reg.example.com, and asked for one token.
func known(t *testing.T, s *service) *auth.Authorizer {
	t.Helper()
	a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("reg.example.com", "user", "pw")}})
	if _, err := ask(t, a, "reg.example.com", auth.Central, bearer(realmURL)); err != nil {
		t.Fatal(err)
	}
	return a
}

func next(t *testing.T, a *auth.Authorizer, repository string) string {
	t.Helper()
	header, err := a.Authorization(t.Context(), "reg.example.com", auth.PullScope(repository), auth.Central)
	if err != nil {
		t.Fatal(err)
	}
	return header.Reveal()
}

func TestTokenRequest(t *testing.T) {
	t.Parallel()
	s := &service{}
	known(t, s)
	got := s.requests()[0]
	want := "https://reg.example.com/token?keep=this&scope=repository%3Aa%2Fb%3Apull&service=svc"
	if got.Method != "GET" || got.URL.String() != want || got.Header.Get("Authorization") != basicOf("user", "pw") || got.Header.Get("Accept-Encoding") != "identity" {
		t.Errorf("token request %s %s %v, want GET %s with the login", got.Method, got.URL, got.Header, want)
	}
}

func TestTokenAnswers(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		want       string        // header; empty: no usable answer
		life       time.Duration // how long it is sent, roughly
	}{
		{name: "token", body: `{"token":"x","expires_in":300}`, want: "Bearer x", life: 270 * time.Second},
		{name: "access_token", body: `{"access_token":"x","expires_in":300}`, want: "Bearer x", life: 270 * time.Second},
		{name: "both", body: `{"access_token":"y","token":"x","expires_in":300,"refresh_token":"z"}`, want: "Bearer x", life: 270 * time.Second},
		{name: "no life", body: `{"token":"x"}`, want: "Bearer x", life: 54 * time.Second},
		{name: "a null life", body: `{"token":"x","expires_in":null}`, want: "Bearer x", life: 54 * time.Second},
		{name: "a tiny life", body: `{"token":"x","expires_in":1}`, want: "Bearer x", life: 54 * time.Second},
		{name: "a negative life", body: `{"token":"x","expires_in":-300}`, want: "Bearer x", life: 54 * time.Second},
		{name: "a life in a string", body: `{"token":"x","expires_in":"300"}`, want: "Bearer x", life: 270 * time.Second},
		{name: "a life with a fraction", body: `{"token":"x","expires_in":299.9999}`, want: "Bearer x", life: 270 * time.Second},
		{name: "an absurd life", body: `{"token":"x","expires_in":99999999999999999999}`, want: "Bearer x", life: 24 * 54 * time.Minute},
		{name: "a life that is no number", body: `{"token":"x","expires_in":{"a":1}}`, want: "Bearer x", life: 54 * time.Second},
		{name: "issued in the past", body: `{"token":"x","expires_in":300,"issued_at":"1999-01-01T00:00:00Z"}`, want: "Bearer x", life: 270 * time.Second},
		{name: "issued in the future", body: `{"token":"x","expires_in":300,"issued_at":"2999-01-01T00:00:00Z"}`, want: "Bearer x", life: 270 * time.Second},
		{name: "no token", body: `{"expires_in":300}`},
		{name: "a page", body: `<html>welcome to the airport</html>`},
		{name: "nothing", body: ``},
		{name: "a token with a line break", body: `{"token":"x\r\nX-Evil: 1"}`},
		{name: "a token with a space", body: `{"token":"x y"}`},
		{name: "over a MiB", body: `{"token":"` + strings.Repeat("x", 1<<20) + `"}`},
		{name: "a large token", body: `{"token":"` + strings.Repeat("x", 30<<10) + `"}`, want: "Bearer " + strings.Repeat("x", 30<<10), life: 54 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &service{answer: func(int, *http.Request) (*http.Response, error) { return reply(200, tt.body), nil }}
				a := auth.New(auth.Config{Transport: s})
				got, err := ask(t, a, "reg.example.com", auth.Anonymous, bearer(realmURL))
				if tt.want == "" {
					if _, ok := errors.AsType[*auth.ServiceError](err); !ok || errors.Is(err, auth.ErrNoAnswer) {
						t.Fatalf("err = %v, want a ServiceError", err)
					}
					return
				}
				if err != nil || got != tt.want {
					t.Fatalf("answer = %.40q, %v, want %.40q", got, err, tt.want)
				}
				count := func() int {
					_, _ = a.Authorization(t.Context(), "reg.example.com", auth.PullScope("a/b"), auth.Anonymous)
					return len(s.requests())
				}
				time.Sleep(tt.life - time.Second)
				if n := count(); n != 1 {
					t.Errorf("%d token requests within the token's life, want 1", n)
				}
				time.Sleep(2 * time.Second)
				if n := count(); n != 2 {
					t.Errorf("%d token requests after the token's life, want 2", n)
				}
			})
		})
	}
}

func TestTokenServiceStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for status, refusal := range map[int]bool{
			400: true, 401: true, 403: true, 404: true, 405: true, 301: true, 302: true, 307: true, 308: true,
			429: false, 408: false, 500: false, 502: false, 503: false, 204: false,
		} {
			s := &service{answer: func(int, *http.Request) (*http.Response, error) {
				resp := reply(status, `{"token":"x"}`)
				resp.Header.Set("Location", "https://evil.test/token")
				resp.Header.Set("Retry-After", "7")
				return resp, nil
			}}
			a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("reg.example.com", "user", canary)}})
			got, err := ask(t, a, "reg.example.com", auth.Central, bearer(realmURL))
			if got != "" || errors.Is(err, auth.ErrNoAnswer) != refusal {
				t.Errorf("status %d: %q, %v, want a refusal: %v", status, got, err, refusal)
			}
			if service, ok := errors.AsType[*auth.ServiceError](err); !refusal && (!ok || service.Status != status || service.RetryAfter != "7") {
				t.Errorf("status %d: err = %#v, want a ServiceError with the status and Retry-After", status, err)
			}
			if err == nil || strings.Contains(err.Error(), canary) {
				t.Errorf("status %d: err = %v", status, err)
			}
			// A refusal is remembered for a minute, trouble is not.
			_, _ = ask(t, a, "reg.example.com", auth.Central, bearer(realmURL))
			each := 1
			if status == 404 || status == 405 {
				each = 2 // perhaps it speaks the other flow
			}
			if n, want := len(s.requests()), map[bool]int{true: each, false: 2}[refusal]; n != want {
				t.Errorf("status %d: %d token requests for two questions, want %d", status, n, want)
			}
			time.Sleep(61 * time.Second)
			_, _ = ask(t, a, "reg.example.com", auth.Central, bearer(realmURL))
			if n, want := len(s.requests()), map[bool]int{true: 2 * each, false: 3}[refusal]; n != want {
				t.Errorf("status %d: %d token requests after a minute, want %d", status, n, want)
			}
		}
	})
}

func TestUnreachableTokenService(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection refused")
	var cause error = broken
	s := &service{answer: func(int, *http.Request) (*http.Response, error) { return nil, cause }}
	a := auth.New(auth.Config{Transport: s})
	if _, err := ask(t, a, "reg.example.com", auth.Anonymous, bearer(realmURL)); !errors.Is(err, broken) || errors.Is(err, auth.ErrNoAnswer) {
		t.Errorf("err = %v, want the transport's", err)
	}
	cause = &dial.RefusedError{Address: "reg.example.com:443", Reason: "loopback address"}
	if _, err := ask(t, a, "reg.example.com", auth.Anonymous, bearer(realmURL)); !errors.Is(err, auth.ErrNoAnswer) {
		t.Errorf("err = %v, want ErrNoAnswer where the dialer refuses", err)
	}
}

func TestTokenIsRefreshedOnceOn401(t *testing.T) {
	t.Parallel()
	s := &service{}
	a := known(t, s)
	for range 5 {
		if got := next(t, a, "a/b"); got != "Bearer t1" {
			t.Fatalf("header = %q, want the first token", got)
		}
	}
	// A hundred requests carried the token that the registry no longer takes.
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			header, err := a.Answer(t.Context(), "reg.example.com", auth.PullScope("a/b"), auth.Central, bearer(realmURL), secret.New("Bearer t1"))
			if err != nil || header.Reveal() != "Bearer t2" {
				t.Errorf("answer = %q, %v, want the second token", header.Reveal(), err)
			}
		})
	}
	wg.Wait()
	if n := len(s.requests()); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

func TestOneTokenForEachScope(t *testing.T) {
	t.Parallel()
	s := &service{}
	a := known(t, s)
	first, second := next(t, a, "a/b"), next(t, a, "c/d")
	if first == second || len(s.requests()) != 2 {
		t.Errorf("tokens %q and %q after %d requests, want two of them", first, second, len(s.requests()))
	}
	anonymous, err := a.Authorization(t.Context(), "reg.example.com", auth.PullScope("a/b"), auth.Anonymous)
	if err != nil || anonymous.Reveal() == first {
		t.Errorf("anonymous token = %q, %v, want one of its own", anonymous.Reveal(), err)
	}
	if got := s.requests()[2].Header.Get("Authorization"); got != "" {
		t.Errorf("anonymous token request carried %q", got)
	}
}

func TestConcurrentTokenRequestsAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &service{answer: func(int, *http.Request) (*http.Response, error) {
			<-release
			return reply(200, `{"token":"x","expires_in":300}`), nil
		}}
		a := auth.New(auth.Config{Transport: s})
		// The first waiter leaves; the request goes on for the others.
		first, leave := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		gone := errors.New("client gone")
		wg.Go(func() {
			if _, err := a.Answer(first, "reg.example.com", auth.PullScope("a/b"), auth.Anonymous, bearer(realmURL), secret.String{}); !errors.Is(err, gone) {
				t.Errorf("the one who left got %v, want the cause", err)
			}
		})
		synctest.Wait()
		var served atomic.Int32
		for range 50 {
			wg.Go(func() {
				if got, err := ask(t, a, "reg.example.com", auth.Anonymous, bearer(realmURL)); err == nil && got == "Bearer x" {
					served.Add(1)
				}
			})
		}
		synctest.Wait()
		leave(gone)
		synctest.Wait()
		close(release)
		wg.Wait()
		if served.Load() != 50 || len(s.requests()) != 1 {
			t.Errorf("%d of 50 served by %d requests, want all by 1", served.Load(), len(s.requests()))
		}
	})
}

// A token service that never ends its answer is given up.
func TestSlowTokenServiceIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{answer: func(_ int, req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, context.Cause(req.Context())
		}}
		a := auth.New(auth.Config{Transport: s})
		start := time.Now()
		_, err := ask(t, a, "reg.example.com", auth.Anonymous, bearer(realmURL))
		if _, ok := errors.AsType[*auth.ServiceError](err); !ok || time.Since(start) > time.Minute {
			t.Errorf("after %v: %v, want a ServiceError within a minute", time.Since(start), err)
		}
	})
}

// Whatever separators the parts of a token's key hold, no token of one is ever given for another.
func TestTokensDoNotMeet(t *testing.T) {
	t.Parallel()
	minted := func(req *http.Request) string {
		q := req.URL.Query()
		return fmt.Sprintf("%x", strings.Join([]string{req.Header.Get("Authorization"), req.URL.Host, req.URL.Path, q.Get("service"), strings.Join(q["scope"], "|")}, "\x00"))
	}
	s := &service{answer: func(_ int, req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"token":"` + minted(req) + `","expires_in":300}`))}, nil
	}}
	parts := []string{"a", "b", "a:b", `a"b`, `"`, `\"`, "a,b", "a/b", "|", "a|b", "%00", "+"}
	pick := func(r *rand.Rand) string { return parts[r.IntN(len(parts))] + parts[r.IntN(len(parts))] }
	r := rand.New(rand.NewPCG(1, 2))
	hosts := []oci.Registry{"one.example.com", "two.example.com", "one.example.com:5000"}
	a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("one.example.com", "u:", "v"), login("two.example.com", "u", ":v")}})
	for range 10_000 {
		reg := hosts[r.IntN(len(hosts))]
		service, repository := pick(r), pick(r)
		id := auth.Anonymous
		if r.IntN(2) == 0 {
			id = auth.Central
		}
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(service)
		resp := unauthorized(fmt.Sprintf(`Bearer realm="https://%s/token",service="%s"`, reg, quoted))
		header, err := a.Answer(t.Context(), reg, auth.PullScope(repository), id, resp, secret.String{})
		if errors.Is(err, auth.ErrNoAnswer) {
			continue // no login for this one
		}
		if err != nil {
			t.Fatal(err)
		}
		var login string
		if id == auth.Central {
			login = map[oci.Registry]string{"one.example.com": basicOf("u:", "v"), "two.example.com": basicOf("u", ":v")}[reg]
		}
		want := "Bearer " + fmt.Sprintf("%x", strings.Join([]string{login, string(reg), "/token", service, string(auth.PullScope(repository))}, "\x00"))
		if header.Reveal() != want {
			t.Fatalf("%s, service %q, %q: got the token of another question", reg, service, repository)
		}
	}
}
