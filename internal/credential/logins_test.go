package credential_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

// canary is part of every secret of these tests: it must not be seen where it does not belong.
const canary = "CANARY-2c9a41"

// log is a log that several goroutines write.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// open returns the logins of cfg and their log at debug, which must not hold a secret at the end of the test.
func open(t *testing.T, cfg credential.Config) (*credential.Logins, *log) {
	t.Helper()
	l := &log{}
	cfg.Log = slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
	t.Cleanup(func() {
		if strings.Contains(l.String(), canary) {
			t.Errorf("the log shows a secret:\n%s", l)
		}
	})
	return credential.New(cfg), l
}

// show is the login for a repository, or what is wrong with it.
func show(t *testing.T, l *credential.Logins, host oci.Registry, repository string) string {
	t.Helper()
	login, err := l.Login(t.Context(), host, repository)
	switch {
	case errors.Is(err, credential.ErrNone):
		return "none"
	case err != nil:
		if strings.Contains(err.Error(), canary) {
			t.Errorf("the error shows a secret: %v", err)
		}
		return "error: " + err.Error()
	}
	return fmt.Sprintf("%s %s:%s", [...]string{"password", "identity", "ready"}[login.Kind], login.Username, login.Secret.Reveal())
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func fixed(host, repository, user string) credential.Entry {
	return credential.Entry{Host: host, Repository: repository, Username: user, Password: secret.New("pw")}
}

func TestTheLongestPrefixWins(t *testing.T) {
	t.Parallel()
	l, _ := open(t, credential.Config{Entries: []credential.Entry{
		fixed("quay.io", "", "all"), fixed("quay.io", "acme", "acme"), fixed("quay.io", "acme/team", "team"),
		fixed("quay.io", "acme/team", "second"), fixed("ghcr.io", "only", "only"), fixed("reg.test:5000", "", "port"),
		fixed("index.docker.io", "", "hub"), fixed("http://plain.test:5000", "", "plain"), fixed("auth.docker.io", "", "realm"),
	}})
	for _, tt := range []struct {
		host       oci.Registry
		repository string
		want       string
	}{
		{"quay.io", "", "all"}, {"quay.io", "other/app", "all"}, {"quay.io", "acme", "acme"}, {"quay.io", "acme/app", "acme"},
		{"quay.io", "acme/team", "team"}, {"quay.io", "acme/team/app/x", "team"}, {"quay.io", "acme/teams", "acme"},
		{"quay.io", "acme2/app", "all"}, {"quay.io", "x/acme", "all"},
		{"ghcr.io", "only/app", "only"}, {"ghcr.io", "other", ""}, {"ghcr.io", "", ""},
		{"reg.test:5000", "a", "port"}, {"reg.test", "a", ""}, {"http://reg.test:5000", "a", ""}, {"xquay.io", "acme", ""},
		{"sub.quay.io", "acme", ""}, {"quay.io:444", "acme", ""}, {"http://quay.io", "acme", ""},
		{oci.DockerHub, "library/alpine", "hub"}, {"http://docker.io", "library/alpine", ""}, {"auth.docker.io", "library/alpine", "realm"},
		{"http://plain.test:5000", "a", "plain"}, {"plain.test:5000", "a", ""},
	} {
		want := "none"
		if tt.want != "" {
			want = "password " + tt.want + ":pw"
		}
		if got := show(t, l, tt.host, tt.repository); got != want {
			t.Errorf("%s %q: %s, want %s", tt.host, tt.repository, got, want)
		}
		if got := l.Has(t.Context(), tt.host, tt.repository); got != (tt.want != "") {
			t.Errorf("Has(%s, %q) = %v", tt.host, tt.repository, got)
		}
	}
}

// The trailing parts of what is not an entry are left out, named, and take no other with them.
func TestMalformedEntriesAreLeftOut(t *testing.T) {
	t.Parallel()
	l, log := open(t, credential.Config{Entries: []credential.Entry{
		{Host: "bad host", Username: "u", Password: secret.New(canary), Name: "entry 1"},
		{Host: "none.test", Name: "entry 2"},
		{Host: "two.test", Password: secret.New(canary), Helper: "x", Name: "entry 3"},
		{Host: "repo.test", Repository: "UPPER", Password: secret.New(canary), Name: "entry 4"},
		{Password: secret.New(canary), Name: "entry 5"},
		fixed("good.test", "", "u"),
	}})
	if got := show(t, l, "good.test", "a"); got != "password u:pw" {
		t.Errorf("the good entry: %s", got)
	}
	for i := range 5 {
		if want := fmt.Sprintf("entry %d", i+1); !strings.Contains(log.String(), want) {
			t.Errorf("%s is not named in the log", want)
		}
	}
	if got := l.Hosts(); len(got) != 1 || got[0] != "good.test" {
		t.Errorf("hosts %v, want the good one's", got)
	}
}

func TestTokenNameMeansAnIdentityToken(t *testing.T) {
	t.Parallel()
	l, _ := open(t, credential.Config{Entries: []credential.Entry{fixed("acr.test", "", "<token>")}})
	if got := show(t, l, "acr.test", "a"); got != "identity <token>:pw" {
		t.Error(got)
	}
}

func TestSecretFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	password, token := filepath.Join(dir, "password"), filepath.Join(dir, "token")
	write(t, password, "one \n")
	write(t, token, "t1\r\n")
	l, log := open(t, credential.Config{Entries: []credential.Entry{
		{Host: "a.test", Username: "u", PasswordFile: password}, {Host: "b.test", TokenFile: token}, {Host: "c.test", Username: "u", PasswordFile: dir},
	}})
	expect := func(step, a, b string) {
		t.Helper()
		if got := show(t, l, "a.test", "x"); got != a {
			t.Errorf("%s: password %q, want %q", step, got, a)
		}
		if got := show(t, l, "b.test", "x"); got != b {
			t.Errorf("%s: token %q, want %q", step, got, b)
		}
	}
	expect("at first", "password u:one ", "identity :t1")
	write(t, password, "two") // of the same length as "one", in the same second
	write(t, token, "t2")
	l.Reload()
	expect("after a change", "password u:two", "identity :t2")

	// Kubernetes swaps a link.
	write(t, filepath.Join(dir, "..data", "password"), "three")
	if err := errors.Join(os.Remove(password), os.Symlink(filepath.Join("..data", "password"), password)); err != nil {
		t.Fatal(err)
	}
	l.Reload()
	expect("after a swap", "password u:three", "identity :t2")

	if login, renewed := l.Renew(t.Context(), "a.test", "x", credential.Login{Username: "u", Secret: secret.New("three")}); renewed {
		t.Errorf("an unchanged file renews to %v", login)
	}
	write(t, filepath.Join(dir, "..data", "password"), "four!")
	if login, renewed := l.Renew(t.Context(), "a.test", "x", credential.Login{Username: "u", Secret: secret.New("three")}); !renewed || login.Secret.Reveal() != "four!" {
		t.Errorf("a changed file renews to %v, %v", login.Secret.Reveal(), renewed)
	}

	write(t, token, "\n")
	l.Reload()
	expect("while it is empty", "password u:four!", "identity :t2")
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	l.Reload()
	expect("when it is gone", "password u:four!", "error: "+token+": no such file or directory")
	if !l.Has(t.Context(), "b.test", "x") {
		t.Error("an entry that fails counts as none")
	}
	write(t, token, "t3")
	l.Reload()
	expect("when it is back", "password u:four!", "identity :t3")
	if got := show(t, l, "c.test", "x"); got != "error: "+dir+": not a regular file" {
		t.Error(got)
	}
	if n := strings.Count(log.String(), "cannot be had"); n != 3 {
		t.Errorf("%d failures are logged, want each of 3 once:\n%s", n, log)
	}
	if !strings.Contains(log.String(), "there again") {
		t.Errorf("the end of a failure is not logged:\n%s", log)
	}
}

// A file system's clock may stand still between two changes.
func TestAChangeWithoutATraceIsNoticed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "password")
	now := time.Now()
	same := func(content string) {
		t.Helper()
		write(t, path, content)
		if err := os.Chtimes(path, now, now); err != nil {
			t.Fatal(err)
		}
	}
	same("one")
	l, _ := open(t, credential.Config{Entries: []credential.Entry{{Host: "a.test", Username: "u", PasswordFile: path}}})
	same("two")
	l.Reload()
	if got := show(t, l, "a.test", "x"); got != "password u:two" {
		t.Errorf("%s, want two", got)
	}
}

// Without an order to reload, a change is seen within a second or so.
func TestAChangeIsNoticed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "password")
	write(t, path, "one")
	l, _ := open(t, credential.Config{Entries: []credential.Entry{{Host: "a.test", Username: "u", PasswordFile: path}}})
	write(t, path, "two")
	eventually(t, func() bool { return show(t, l, "a.test", "x") == "password u:two" })
}
