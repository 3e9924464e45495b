package setup

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// newAuthority makes a certificate like that of an authority.
func newAuthority(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// get asks a handler for a path, as a client that calls the proxy by the name host.
func get(h http.Handler, method, path, host string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestPages(t *testing.T) {
	t.Parallel()
	certificate := newAuthority(t)
	h := Handler(Config{CertificatePEM: certificate})
	for _, tt := range []struct {
		method, path string
		status       int
		contentType  string
		body         string // a part of it
	}{
		{"GET", "/", 200, "text/plain; charset=utf-8", "http://proxy.lan:3128/setup/systemd"},
		{"GET", "/", 200, "text/plain; charset=utf-8", "is working"},
		{"HEAD", "/", 200, "text/plain; charset=utf-8", ""},
		{"GET", "/?from=balancer", 200, "text/plain; charset=utf-8", "is working"},
		{"GET", "/ca.crt", 200, "application/x-x509-ca-cert", string(certificate)},
		{"HEAD", "/ca.crt", 200, "application/x-x509-ca-cert", ""},
		{"GET", "/setup/systemd", 200, "text/plain; charset=utf-8", `Environment="HTTPS_PROXY=http://proxy.lan:3128/"`},
		{"GET", "/setup/systemd", 200, "text/plain; charset=utf-8", string(certificate)},
		{"GET", "/healthz", 200, "text/plain; charset=utf-8", "ok"},
		{"POST", "/healthz", 405, "text/plain; charset=utf-8", "want GET or HEAD"},
		{"DELETE", "/ca.crt", 405, "text/plain; charset=utf-8", "want GET or HEAD"},
		// One name for each page, and no other page.
		{"GET", "//ca.crt", 404, "text/plain; charset=utf-8", "/setup/systemd"},
		{"GET", "/ca.crt/", 404, "text/plain; charset=utf-8", "/setup/systemd"},
		{"GET", "/setup/../ca.crt", 404, "text/plain; charset=utf-8", "/setup/systemd"},
		{"GET", "/setup%2fsystemd", 404, "text/plain; charset=utf-8", "/setup/systemd"},
		{"GET", "/%63a.crt", 404, "text/plain; charset=utf-8", "/setup/systemd"},
		{"GET", "/ca.key", 404, "text/plain; charset=utf-8", "/setup/systemd"},
		{"GET", "/metrics", 404, "text/plain; charset=utf-8", "/setup/systemd"},
		{"GET", "/debug/pprof/", 404, "text/plain; charset=utf-8", "/setup/systemd"},
		{"POST", "/anything", 404, "text/plain; charset=utf-8", "/setup/systemd"},
	} {
		got := get(h, tt.method, tt.path, "Proxy.LAN:3128")
		if got.Code != tt.status || got.Header().Get("Content-Type") != tt.contentType || !strings.Contains(got.Body.String(), tt.body) {
			t.Errorf("%s %s: status %d, %q, want %d, %q, with %q; body:\n%s",
				tt.method, tt.path, got.Code, got.Header().Get("Content-Type"), tt.status, tt.contentType, tt.body, got.Body)
		}
		if allow := got.Header().Get("Allow"); (tt.status == 405) != (allow == "GET, HEAD") {
			t.Errorf("%s %s: Allow is %q", tt.method, tt.path, allow)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	var sick error
	h := Handler(Config{CertificatePEM: newAuthority(t), Healthy: func() error { return sick }})
	if got := get(h, "GET", "/healthz", "proxy"); got.Code != 200 {
		t.Errorf("well: status %d, want 200", got.Code)
	}
	sick = errors.New("the disk is on fire")
	if got := get(h, "GET", "/healthz", "proxy"); got.Code != 503 || !strings.Contains(got.Body.String(), "on fire") {
		t.Errorf("not well: status %d, want 503 and the reason: %s", got.Code, got.Body)
	}
}

// Root runs what the script says, and the Host header is a stranger's. The nginx originals print whatever it holds.
func TestHostileHosts(t *testing.T) {
	t.Parallel()
	h := Handler(Config{CertificatePEM: newAuthority(t)})
	refusal := get(h, "GET", "/setup/systemd", "").Body.String()
	for _, host := range []string{
		"", " ", ":", ":3128", "proxy:", "proxy:port", "proxy:0", "proxy:65536", "proxy:99999", "proxy:-1", "proxy:+1", "proxy:3128:3128", "proxy:3128/", "proxy/x",
		`proxy"`, `proxy'`, "proxy`id`", "proxy$(id)", "$(id)", "${HOME}", "$HOME", "proxy;id", "proxy&id", "proxy|id", "proxy>x", "proxy<x", "proxy\nid", "proxy\r\nid", "proxy\x00",
		"proxy id", "proxy\tid", "proxy%0aid", "proxy%n", `proxy\`, "proxy#", "proxy?", "proxy*", "proxy!", "proxy~", "proxy=x", "proxy,x", "proxy(", "proxy)", "proxy{}", "proxy@host",
		"-oProxyCommand=id", "-", ".proxy", "proxy\nEND\nid\n", "@CERTIFICATES@", "[", "[]", "[]:3128", "[::1", "::1", "fd00::1", "[fd00::1%eth0]", "[fd00::1%25eth0]", "[127.0.0.1]",
		"[::::]", "[fd00::1]id", "[fd00::1]:3128\nid", "[g::1]", "prøxy", "рroxy", strings.Repeat("a", 300),
	} {
		got := get(h, "GET", "/setup/systemd", host)
		if got.Code != 400 || got.Body.String() != refusal {
			t.Errorf("Host %q: status %d, want 400 and nothing of the host: %s", host, got.Code, got.Body)
		}
		if got := get(h, "GET", "/", host); got.Code != 200 || !strings.Contains(got.Body.String(), "http://ADDRESS:3128/ca.crt") {
			t.Errorf("Host %q: status %d, want the page without it: %s", host, got.Code, got.Body)
		}
	}
	for host, want := range map[string]string{
		"192.168.66.72:3128": "192.168.66.72:3128", "proxy": "proxy", "container-registry-proxy:3128": "container-registry-proxy:3128",
		"docker_registry_proxy:3128": "docker_registry_proxy:3128", "Proxy.Example.COM:80": "proxy.example.com:80", "[fd00::1]:3128": "[fd00::1]:3128",
		"[FD00::1]": "[fd00::1]", "[::ffff:10.0.0.1]:3128": "[::ffff:10.0.0.1]:3128", "proxy.:3128": "proxy.:3128", "Environment:3128": "environment:3128",
	} {
		got := get(h, "GET", "/setup/systemd", host)
		if got.Code != 200 || !strings.Contains(got.Body.String(), `HTTPS_PROXY=http://`+want+`/"`) {
			t.Errorf("Host %q: status %d, want a script for %s: %s", host, got.Code, want, got.Body)
		}
	}
}

func FuzzClientAddress(f *testing.F) {
	for _, host := range []string{"192.168.66.72:3128", "proxy", "[fd00::1]:3128", "proxy$(id)", "proxy\nEND\n", "a_b.c-d:1"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		address, ok := clientAddress(host)
		if ok && (address == "" || strings.ContainsFunc(address, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789._-:[]", r)
		})) {
			t.Errorf("clientAddress(%q) = %q, which is more than an address", host, address)
		}
	})
}
