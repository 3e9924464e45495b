package client

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

func users(t *testing.T, pairs ...string) *Users {
	t.Helper()
	var lines string
	for i := 0; i < len(pairs); i += 2 {
		hash, err := bcrypt.GenerateFromPassword([]byte(pairs[i+1]), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		lines += pairs[i] + ":" + string(hash) + "\n"
	}
	u, err := ParseUsers([]byte("# ours\n\n" + lines))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestWhoIsAdmitted(t *testing.T) {
	t.Parallel()
	lan := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	ci := users(t, "ci", "pw:with colon")
	good, bad := "Basic Y2k6cHc6d2l0aCBjb2xvbg==", "Basic Y2k6cHc="
	for _, tc := range []struct {
		name   string
		cfg    Config
		addr   string
		header string
		cert   bool
		status int
		user   string
	}{
		{"nothing is asked", Config{}, "192.0.2.1:5", "", false, 0, ""},
		{"of the network", Config{Networks: lan}, "10.1.2.3:5", "", false, 0, ""},
		{"of the network, mapped", Config{Networks: lan}, "[::ffff:10.1.2.3]:5", "", false, 0, ""},
		{"of another", Config{Networks: lan}, "192.0.2.1:5", good, false, 403, ""},
		{"no login", Config{Users: ci}, "192.0.2.1:5", "", false, 407, ""},
		{"a wrong password", Config{Users: ci}, "192.0.2.1:5", bad, false, 407, ""},
		{"an unknown user", Config{Users: ci}, "192.0.2.1:5", "Basic eDp5", false, 407, ""},
		{"no Basic", Config{Users: ci}, "192.0.2.1:5", "Bearer ci", false, 407, ""},
		{"broken", Config{Users: ci}, "192.0.2.1:5", "Basic %%%", false, 407, ""},
		{"a good login", Config{Users: ci}, "192.0.2.1:5", good, false, 0, "ci"},
		{"a good login from elsewhere", Config{Users: ci, Networks: lan}, "192.0.2.1:5", good, false, 403, ""},
		{"no certificate", Config{Certificates: true}, "192.0.2.1:5", "", false, 403, ""},
		{"a certificate", Config{Certificates: true}, "192.0.2.1:5", "", true, 0, ""},
		{"a certificate in the place of a login", Config{Certificates: true, Users: ci}, "192.0.2.1:5", "", true, 0, ""},
		{"a certificate that nobody asked for", Config{Users: ci}, "192.0.2.1:5", "", true, 407, ""},
	} {
		r := &http.Request{RemoteAddr: tc.addr, Header: http.Header{"Proxy-Authorization": {tc.header}}}
		if tc.cert {
			r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: "node1"}}}}}
		}
		who, denial := New(tc.cfg).Admit(r)
		status := 0
		if denial != nil {
			status = denial.Status
		}
		if status != tc.status || who.User != tc.user {
			t.Errorf("%s: status %d, user %q, want %d, %q", tc.name, status, who.User, tc.status, tc.user)
		}
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	g := New(Config{Rules: []Rule{
		{Users: []string{"ci"}, Registries: []string{"*.example.com"}, Repositories: []string{"team/*", "base"}},
		{Certificates: []string{"*.nodes.test"}},
		{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Registries: []string{"docker.io"}},
	}})
	ci, node := Who{User: "ci", Addr: netip.MustParseAddr("10.1.1.1")}, Who{Names: []string{"n1.nodes.test"}}
	lan, stranger := Who{Addr: netip.MustParseAddr("10.2.2.2")}, Who{Addr: netip.MustParseAddr("192.0.2.1")}
	for _, tc := range []struct {
		who        Who
		reg        oci.Registry
		repository string
		want       bool
	}{
		{ci, "reg.example.com", "team/app", true}, {ci, "reg.example.com", "base", true}, {ci, "reg.example.com", "base/x", false},
		{ci, "http://reg.example.com", "base", true}, {ci, "example.com", "base", false}, {ci, "docker.io", "library/alpine", false},
		{ci, "reg.example.com", "", true},
		{node, "docker.io", "x", true}, {lan, "docker.io", "x", true}, {lan, "quay.io", "x", false}, {stranger, "docker.io", "x", false},
	} {
		if got := g.May(tc.who, tc.reg, tc.repository); got != tc.want {
			t.Errorf("May(%+v, %s, %s) = %t", tc.who, tc.reg, tc.repository, got)
		}
	}
	if g.Everyone("docker.io", "x") || !New(Config{}).Everyone("docker.io", "x") {
		t.Error("who may have what everyone may")
	}
	if !New(Config{Rules: []Rule{{Registries: []string{"docker.io"}}, {}}}).Everyone("docker.io", "x") {
		t.Error("two rules that both allow it")
	}
}

func TestUsersFiles(t *testing.T) {
	t.Parallel()
	for content, word := range map[string]string{
		"": "names no user", "ci": "line 1: want name:hash", "ci:{SHA}x": "bcrypt", ":$2y$05$abc": "want name:hash",
		"\nci:$apr1$x$y":                       "line 2",
		"ci:$2y$31$" + strings.Repeat("a", 53): "14 at most",
	} {
		if _, err := ParseUsers([]byte(content)); err == nil || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "$apr1") {
			t.Errorf("%q: %v, want %q in it", content, err, word)
		}
	}
}

// A thousand tries of a login cost one check, and those of others wait their turn.
func TestChecksAreBounded(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("pw"), 10)
	if err != nil {
		t.Fatal(err)
	}
	u, err := ParseUsers([]byte("ci:" + string(hash)))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if !u.Check(t.Context(), "ci", secret.New("pw")) {
		t.Fatal("refused")
	}
	once := time.Since(start)
	start = time.Now()
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			if !u.Check(t.Context(), "ci", secret.New("pw")) || u.Check(t.Context(), "ci", secret.New("guess")) {
				t.Error("a wrong outcome")
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 100*once+10*time.Second {
		t.Errorf("2000 checks of two logins took %v, one %v", took, once)
	}
	for i := range 3 * maxChecked {
		u.checked[secret.New(string(rune(i))).Key()] = outcome{}
		if len(u.checked) > 2*maxChecked {
			break
		}
	}
	u.Check(t.Context(), "nobody", secret.New("x"))
	if len(u.checked) > maxChecked {
		t.Errorf("%d outcomes are remembered", len(u.checked))
	}
}
