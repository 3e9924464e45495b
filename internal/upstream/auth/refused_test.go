package auth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream/auth"
)

const reg = oci.Registry("reg.example.com")

// book is a set of logins that a test changes. It implements [auth.Logins].
type book struct {
	mu      sync.Mutex
	logins  map[string]credential.Login // by "host" or "host/repository"
	next    map[string]credential.Login // what Renew finds
	failing error
	renewed int
}

func (b *book) Hosts() []oci.Registry { return []oci.Registry{reg} }

func (b *book) Has(_ context.Context, host oci.Registry, repository string) bool {
	_, err := b.find(host, repository)
	return !errors.Is(err, credential.ErrNone)
}

func (b *book) Login(_ context.Context, host oci.Registry, repository string) (credential.Login, error) {
	return b.find(host, repository)
}

func (b *book) find(host oci.Registry, repository string) (credential.Login, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failing != nil {
		return credential.Login{}, b.failing
	}
	for _, key := range []string{string(host) + "/" + repository, string(host)} {
		if login, ok := b.logins[key]; ok {
			return login, nil
		}
	}
	return credential.Login{}, credential.ErrNone
}

func (b *book) Renew(_ context.Context, host oci.Registry, repository string, refused credential.Login) (credential.Login, bool) {
	b.mu.Lock()
	b.renewed++
	if next, ok := b.next[string(host)]; ok {
		b.logins[string(host)] = next
		delete(b.next, string(host))
	}
	b.mu.Unlock()
	login, err := b.find(host, repository)
	return login, err == nil && !login.Same(refused)
}

func password(user string) credential.Login {
	return credential.Login{Username: user, Secret: secret.New(canary + user), Source: "book"}
}

// metric is the sum of a metric's samples that have the label value, or any if that is empty.
func metric(t *testing.T, registry *prometheus.Registry, name, label string) (sum float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, pair := range m.GetLabel() {
				if f.GetName() == name && (pair.GetValue() == label || label == "") {
					sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
	}
	return sum
}

func TestRefusedLoginRestsForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status := 401
		s := &service{answer: func(n int, _ *http.Request) (*http.Response, error) {
			return reply(status, fmt.Sprintf(`{"token":"t%d"}`, n)), nil
		}}
		var log bytes.Buffer
		registry := prometheus.NewRegistry()
		a := auth.New(auth.Config{
			Transport: s, Logins: &book{logins: map[string]credential.Login{string(reg): password("u")}}, Registerer: registry,
			Registries: func(r oci.Registry) string { return string(r) }, Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		pull := func(repository string) error {
			_, err := a.Answer(t.Context(), reg, auth.PullScope(repository), auth.Central, bearer(realmURL), secret.String{})
			return err
		}
		state := func(what string, refused bool, requests int) {
			t.Helper()
			if got := a.Refused(t.Context(), reg, "c/d"); got != refused || len(s.requests()) != requests {
				t.Errorf("%s: refused %v after %d token requests, want %v and %d", what, got, len(s.requests()), refused, requests)
			}
		}
		state("before", false, 0)
		for _, repository := range []string{"a/b", "a/b", "c/d"} {
			if err := pull(repository); !errors.Is(err, auth.ErrNoAnswer) || strings.Contains(err.Error(), canary) {
				t.Errorf("%s: %v, want ErrNoAnswer", repository, err)
			}
		}
		if header, err := a.Authorization(t.Context(), reg, auth.PullScope("a/b"), auth.Central); err != nil || !header.Empty() {
			t.Errorf("what is sent first: %v, %v, want nothing", header, err)
		}
		state("once refused", true, 1)
		if !a.HasCentral(reg) {
			t.Error("a refused login counts as none")
		}
		if n := metric(t, registry, "upstream_logins_refused", string(reg)); n != 1 {
			t.Errorf("upstream_logins_refused %v, want 1", n)
		}
		time.Sleep(61 * time.Second)
		state("after a minute", false, 1)
		_ = pull("a/b")
		state("refused again", true, 2)
		a.Reload()
		state("after a reload", false, 2)
		_ = pull("a/b")
		state("and again", true, 3)
		if n := strings.Count(log.String(), "configured login is refused"); n != 2 { // before and after the reload
			t.Errorf("logged %d times, want once each:\n%s", n, &log)
		}
		status = 200
		time.Sleep(61 * time.Second)
		if err := pull("a/b"); err != nil {
			t.Errorf("once it is taken: %v", err)
		}
		state("once it is taken", false, 4)
		if n := metric(t, registry, "upstream_logins_refused", ""); n != 0 {
			t.Errorf("upstream_logins_refused %v, want 0", n)
		}
		if n := metric(t, registry, "upstream_login_refusals_total", "login"); n != 3 {
			t.Errorf("upstream_login_refusals_total %v, want 3", n)
		}
		if !strings.Contains(log.String(), "taken again") || strings.Contains(log.String(), canary) {
			t.Errorf("log:\n%s", &log)
		}
	})
}

// A login that the registry takes elsewhere is not bad: one repository must not keep it from the others.
func TestRefusedForOneRepository(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"basic", "bearer"} {
		a := auth.New(auth.Config{
			Transport: &service{}, Logins: &book{logins: map[string]credential.Login{string(reg): password("u")}},
		})
		challenge := unauthorized(`Basic realm="x"`)
		if scheme == "bearer" {
			challenge = bearer(realmURL)
		}
		exchange := func(repository string, status int) secret.String {
			t.Helper()
			scope := auth.PullScope(repository)
			sent, err := a.Answer(t.Context(), reg, scope, auth.Central, challenge, secret.String{})
			if err != nil {
				t.Fatalf("%s, %s: %v", scheme, repository, err)
			}
			a.Learn(t.Context(), reg, scope, auth.Central, sent, status)
			return sent
		}
		exchange("good/app", 200)
		sent := exchange("denied/app", 403)
		exchange("challenged/app", 401)
		for repository, want := range map[string]bool{"good/app": false, "denied/app": true, "challenged/app": true, "other": false} {
			if got := a.Refused(t.Context(), reg, repository); got != want {
				t.Errorf("%s: Refused(%s) = %v, want %v", scheme, repository, got, want)
			}
		}
		if _, err := a.Answer(t.Context(), reg, auth.PullScope("denied/app"), auth.Central, challenge, sent); !errors.Is(err, auth.ErrNoAnswer) {
			t.Errorf("%s: err = %v, want ErrNoAnswer while it rests", scheme, err)
		}
		a.Learn(t.Context(), reg, auth.PullScope("denied/app"), auth.Central, sent, 307)
		if a.Refused(t.Context(), reg, "denied/app") {
			t.Errorf("%s: is said to be refused after it was taken", scheme)
		}
	}
}

// What others are answered says nothing of the operator's login.
func TestOnlyTheOperatorsLoginIsMarked(t *testing.T) {
	t.Parallel()
	a := auth.New(auth.Config{Transport: &service{}, Logins: &book{logins: map[string]credential.Login{string(reg): password("u")}}})
	scope := auth.PullScope("a/b")
	a.Learn(t.Context(), reg, scope, auth.Anonymous, secret.New("Bearer x"), 403)
	a.Learn(t.Context(), reg, scope, auth.Own(secret.New("Basic x")), secret.New("Basic x"), 401)
	a.Learn(t.Context(), reg, scope, auth.Central, secret.String{}, 401)
	a.Learn(t.Context(), reg, scope, auth.Central, secret.New("Bearer x"), 404)
	a.Learn(t.Context(), reg, scope, auth.Central, secret.New("Bearer x"), 429)
	if a.Refused(t.Context(), reg, "a/b") {
		t.Error("is said to be refused")
	}
}

func TestRefusedLoginIsRenewed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		challenge *http.Response
	}{{"at the token service", bearer(realmURL)}, {"at the registry", unauthorized(`Basic realm="x"`)}} {
		good := basicOf("new", canary+"new")
		s := &service{answer: func(n int, req *http.Request) (*http.Response, error) {
			if req.Header.Get("Authorization") != good {
				return reply(401, ""), nil
			}
			return reply(200, fmt.Sprintf(`{"token":"t%d"}`, n)), nil
		}}
		b := &book{logins: map[string]credential.Login{string(reg): password("old")}, next: map[string]credential.Login{string(reg): password("new")}}
		a := auth.New(auth.Config{Transport: s, Logins: b})
		sent := secret.New(basicOf("old", canary+"old"))
		header, err := a.Answer(t.Context(), reg, auth.PullScope("a/b"), auth.Central, tt.challenge, sent)
		if err != nil || header.Reveal() != good && header.Reveal() != "Bearer t2" {
			t.Errorf("%s: %q, %v, want the new login's", tt.name, header.Reveal(), err)
		}
		if a.Refused(t.Context(), reg, "a/b") || b.renewed != 1 {
			t.Errorf("%s: refused, or renewed %d times, want once", tt.name, b.renewed)
		}
	}
}

// ECR says 403 without a challenge of a login that has expired.
func TestExpiredLoginIsRenewed(t *testing.T) {
	t.Parallel()
	b := &book{logins: map[string]credential.Login{string(reg): password("old")}, next: map[string]credential.Login{string(reg): password("new")}}
	a := auth.New(auth.Config{Logins: b})
	scope := auth.PullScope("a/b")
	sent, err := a.Answer(t.Context(), reg, scope, auth.Central, unauthorized(`Basic realm="x"`), secret.String{})
	if err != nil {
		t.Fatal(err)
	}
	forbidden := reply(403, `{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}`)
	fresh, err := a.Answer(t.Context(), reg, scope, auth.Central, forbidden, sent)
	if err != nil || fresh.Reveal() != basicOf("new", canary+"new") {
		t.Fatalf("%q, %v, want the new login", fresh.Reveal(), err)
	}
	if _, err := a.Answer(t.Context(), reg, scope, auth.Central, forbidden, fresh); !errors.Is(err, auth.ErrNoAnswer) || !a.Refused(t.Context(), reg, "a/b") {
		t.Errorf("the new one is refused too: %v, want ErrNoAnswer and a mark", err)
	}
	if a.Refused(t.Context(), reg, "c/d") {
		t.Error("a 403 for one repository is taken for all")
	}
	for _, id := range []auth.Identity{auth.Anonymous, auth.Own(sent)} {
		if _, err := a.Answer(t.Context(), reg, scope, id, forbidden, sent); !errors.Is(err, auth.ErrNoAnswer) {
			t.Errorf("another identity: %v, want ErrNoAnswer", err)
		}
	}
}

func TestSourceThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := &book{logins: map[string]credential.Login{string(reg): password("u")}, failing: errors.New("docker-credential-x: exit status 1")}
		a := auth.New(auth.Config{Transport: &service{}, Logins: b, Log: slog.New(slog.NewTextHandler(&log, nil))})
		for range 3 {
			if got, err := ask(t, a, reg, auth.Central, bearer(realmURL)); !errors.Is(err, auth.ErrNoAnswer) || got != "" {
				t.Errorf("%q, %v, want ErrNoAnswer", got, err)
			}
		}
		if !a.HasCentral(reg) || !a.Refused(t.Context(), reg, "a/b") {
			t.Error("a login that cannot be had is none, or said to be of use")
		}
		if got, err := ask(t, a, reg, auth.Anonymous, bearer(realmURL)); err != nil || got != "Bearer t1" {
			t.Errorf("nobody in particular: %q, %v, want a token", got, err)
		}
		if n := strings.Count(log.String(), "configured login is refused"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, &log)
		}
		b.failing = nil
		if got, err := ask(t, a, reg, auth.Central, bearer(realmURL)); err != nil || got != "Bearer t2" {
			t.Errorf("once it works: %q, %v, want a token", got, err)
		}
		if a.Refused(t.Context(), reg, "a/b") {
			t.Error("once it works: is said to be refused")
		}
	})
}

func TestLoginForARepository(t *testing.T) {
	t.Parallel()
	s := &service{}
	b := &book{logins: map[string]credential.Login{"reg.example.com/acme/app": password("acme")}}
	a := auth.New(auth.Config{Transport: s, Logins: b})
	if a.HasCentral(reg) || !a.HasCentralFor(reg, "acme/app") || a.HasCentralFor(reg, "other") {
		t.Error("the login of one repository is taken for another's, or for none's")
	}
	for repository, want := range map[string]bool{"acme/app": true, "other": false} {
		_, err := a.Answer(t.Context(), reg, auth.PullScope(repository), auth.Central, bearer(realmURL), secret.String{})
		if (err == nil) != want {
			t.Errorf("%s: %v", repository, err)
		}
	}
	if n := len(s.requests()); n != 1 || s.requests()[0].Header.Get("Authorization") != basicOf("acme", canary+"acme") {
		t.Errorf("%d token requests, want one with the login", n)
	}
}

// A token that the registry takes as it is goes to the registry alone.
func TestReadyToken(t *testing.T) {
	t.Parallel()
	s := &service{}
	ready := credential.Login{Kind: credential.Ready, Secret: secret.New(canary)}
	a := auth.New(auth.Config{Transport: s, Logins: &book{logins: map[string]credential.Login{string(reg): ready}}})
	got, err := ask(t, a, reg, auth.Central, bearer(realmURL))
	if err != nil || got != "Bearer "+canary || len(s.requests()) != 0 {
		t.Errorf("%q, %v after %d token requests, want the token", got, err, len(s.requests()))
	}
	if _, err := a.Answer(t.Context(), reg, auth.PullScope("a/b"), auth.Central, bearer(realmURL), secret.New(got)); !errors.Is(err, auth.ErrNoAnswer) {
		t.Errorf("once refused: %v, want ErrNoAnswer", err)
	}
	if got, err := ask(t, a, reg, auth.Central, bearer("https://evil.test/token")); !errors.Is(err, auth.ErrNoAnswer) {
		t.Errorf("for a realm that is not paired: %q, %v, want ErrNoAnswer", got, err)
	}
}
