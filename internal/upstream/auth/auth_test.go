package auth_test

import (
	"errors"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream/auth"
)

// Google's service account key, spaces, colons and all.
const jsonKey = `{ "type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\nMII:E=\n", "client_email": "a@b.iam.gserviceaccount.com" }`

func TestBasicLogin(t *testing.T) {
	t.Parallel()
	a := auth.New(auth.Config{Entries: []auth.Entry{login("gcr.io", "_json_key", jsonKey)}})
	if header, err := a.Authorization(t.Context(), "gcr.io", auth.PullScope("a/b"), auth.Central); err != nil || !header.Empty() {
		t.Errorf("before a challenge = %q, %v, want nothing", header.Reveal(), err)
	}
	want := basicOf("_json_key", jsonKey)
	if got, err := ask(t, a, "gcr.io", auth.Central, unauthorized(`Basic realm="gcr"`)); err != nil || got != want {
		t.Errorf("answer = %q, %v, want %q", got, err, want)
	}
	if header, err := a.Authorization(t.Context(), "gcr.io", auth.PullScope("c"), auth.Central); err != nil || header.Reveal() != want {
		t.Errorf("after the challenge = %q, %v, want the login at once", header.Reveal(), err)
	}
	if header, _ := a.Authorization(t.Context(), "gcr.io", auth.PullScope("c"), auth.Anonymous); !header.Empty() {
		t.Errorf("anonymous after the challenge = %q, want nothing", header.Reveal())
	}
	if header, _ := a.Authorization(t.Context(), "eu.gcr.io", auth.PullScope("c"), auth.Central); !header.Empty() {
		t.Errorf("another registry = %q, want nothing", header.Reveal())
	}
	if _, err := a.Answer(t.Context(), "gcr.io", auth.PullScope("c"), auth.Central, unauthorized(`Basic realm="gcr"`), secret.New(want)); !errors.Is(err, auth.ErrNoAnswer) {
		t.Errorf("after the login was refused: err = %v, want ErrNoAnswer", err)
	}
}

// GCR wants its JSON key at the token endpoint too.
func TestJSONKeyAtTheTokenService(t *testing.T) {
	t.Parallel()
	s := &service{}
	a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("gcr.io", "_json_key", jsonKey)}})
	if got, err := ask(t, a, "gcr.io", auth.Central, bearer("https://gcr.io/v2/token")); err != nil || got != "Bearer t1" {
		t.Fatalf("answer = %q, %v, want the token", got, err)
	}
	if got := s.requests()[0].Header.Get("Authorization"); got != basicOf("_json_key", jsonKey) {
		t.Errorf("token service saw %q, want the key", got)
	}
}

func TestOwnAuthorizationIsSentAsItCame(t *testing.T) {
	t.Parallel()
	s := &service{}
	a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("reg.example.com", "user", canary)}})
	own := auth.Own(secret.New("Bearer client"))
	if header, err := a.Authorization(t.Context(), "reg.example.com", "", own); err != nil || header.Reveal() != "Bearer client" {
		t.Errorf("Authorization = %q, %v, want the client's", header.Reveal(), err)
	}
	if got, err := ask(t, a, "reg.example.com", own, bearer("https://reg.example.com/token")); !errors.Is(err, auth.ErrNoAnswer) || got != "" {
		t.Errorf("Answer = %q, %v, want ErrNoAnswer", got, err)
	}
	if len(s.requests()) != 0 {
		t.Errorf("%d token requests, want 0", len(s.requests()))
	}
}

func TestTokenComesBeforeBasic(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string][]string{
		"one line":        {`Basic realm="x", Bearer realm="https://reg.example.com/token",service="svc"`},
		"two lines":       {`Basic realm="x"`, `Bearer realm="https://reg.example.com/token"`},
		"among strangers": {`Negotiate`, `Digest realm="x",nonce="n"`, `bearer realm=https://reg.example.com/token`, `NTLM`},
	} {
		a := auth.New(auth.Config{Transport: &service{}, Entries: []auth.Entry{login("reg.example.com", "user", "pw")}})
		if got, err := ask(t, a, "reg.example.com", auth.Central, unauthorized(lines...)); err != nil || got != "Bearer t1" {
			t.Errorf("%s: %q, %v, want a token", name, got, err)
		}
	}
}

// Harbor answers a token of too little scope with a Basic challenge.
func TestBasicAfterAToken(t *testing.T) {
	t.Parallel()
	a := auth.New(auth.Config{Transport: &service{}, Entries: []auth.Entry{login("reg.example.com", "user", "pw")}})
	first, err := ask(t, a, "reg.example.com", auth.Central, bearer("https://reg.example.com/service/token"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.Answer(t.Context(), "reg.example.com", "", auth.Central, unauthorized(`Basic realm="harbor"`), secret.New(first))
	if err != nil || second.Reveal() != basicOf("user", "pw") {
		t.Errorf("answer = %q, %v, want the login", second.Reveal(), err)
	}
	if header, _ := a.Authorization(t.Context(), "reg.example.com", auth.PullScope("a/b"), auth.Central); header.Reveal() != first {
		t.Errorf("next request = %q, want the token again", header.Reveal())
	}
}

// An unpaired realm and a Basic challenge beside it: the login goes to the registry alone.
func TestBasicWhereTheRealmIsNotPaired(t *testing.T) {
	t.Parallel()
	s := &service{}
	a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("reg.example.com", "user", "pw")}})
	got, err := ask(t, a, "reg.example.com", auth.Central, unauthorized(`Bearer realm="https://evil.test/token"`, `Basic realm="x"`))
	if err != nil || got != basicOf("user", "pw") || len(s.requests()) != 0 {
		t.Errorf("answer = %q, %v after %d token requests, want the login and none", got, err, len(s.requests()))
	}
}

func TestChallengeThatChangedIsLearntAnew(t *testing.T) {
	t.Parallel()
	a := auth.New(auth.Config{Transport: &service{}, Entries: []auth.Entry{login("reg.example.com", "user", "pw")}})
	sent, err := ask(t, a, "reg.example.com", auth.Central, unauthorized(`Basic realm="x"`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Answer(t.Context(), "reg.example.com", "", auth.Central, unauthorized(`Basic realm="x"`), secret.New(sent)); err == nil {
		t.Fatal("a refused login was sent again")
	}
	if header, _ := a.Authorization(t.Context(), "reg.example.com", "", auth.Central); !header.Empty() {
		t.Errorf("next request = %q, want nothing until the registry challenges", header.Reveal())
	}
}

func TestHasCentral(t *testing.T) {
	t.Parallel()
	a := auth.New(auth.Config{
		Entries: []auth.Entry{login("auth.docker.io", "u", "p"), login("gitlab.com", "u", "p"), login("reg.example.com:5000", "u", "p"), login("http://plain.example.com:5000", "u", "p"), login("git.other.test", "u", "p"), login("bad host", "u", canary)},
		Named:   named("reg.other.test"),
	})
	for reg, want := range map[oci.Registry]bool{
		oci.DockerHub: true, "registry.gitlab.com": true, "gitlab.com": true, "reg.example.com:5000": true, "http://plain.example.com:5000": true,
		"reg.example.com": false, "reg.other.test": true, "unnamed.other.test": false, "quay.io": false, "http://reg.example.com:5000": false, "plain.example.com:5000": false, "http://docker.io": false,
	} {
		if got := a.HasCentral(reg); got != want {
			t.Errorf("HasCentral(%s) = %v, want %v", reg, got, want)
		}
	}
}

// What a redirect's target challenges for is answered as nobody, and changes nothing for those who ask it themselves.
func TestVisitIsAnonymousAndForgotten(t *testing.T) {
	t.Parallel()
	s := &service{}
	a := auth.New(auth.Config{Transport: s, Entries: []auth.Entry{login("ghcr.io", "user", canary)}})
	header, err := a.Visit(t.Context(), "ghcr.io", unauthorized(`Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:linkerd/proxy:pull,push"`))
	if err != nil || header.Reveal() != "Bearer t1" {
		t.Fatalf("Visit = %q, %v, want a token", header.Reveal(), err)
	}
	req := s.requests()[0]
	if req.Header.Get("Authorization") != "" || req.URL.Query().Get("scope") != "repository:linkerd/proxy:pull" {
		t.Errorf("token request %s with Authorization %q, want an anonymous one to pull", req.URL, req.Header.Get("Authorization"))
	}
	if header, _ := a.Authorization(t.Context(), "ghcr.io", "", auth.Central); !header.Empty() {
		t.Errorf("Authorization afterwards = %q, want nothing", header.Reveal())
	}
}
