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
		{"GET", "/", 200, "text/plain; charset=utf-8", "http://proxy.lan:3128/setup/CLIENT"},
		{"GET", "/", 200, "text/plain; charset=utf-8", "is working"},
		{"HEAD", "/", 200, "text/plain; charset=utf-8", ""},
		{"GET", "/?from=balancer", 200, "text/plain; charset=utf-8", "is working"},
		{"GET", "/ca.crt", 200, "application/x-x509-ca-cert", string(certificate)},
		{"HEAD", "/ca.crt", 200, "application/x-x509-ca-cert", ""},
		{"GET", "/setup/systemd", 200, "text/plain; charset=utf-8", `Environment="HTTPS_PROXY=http://proxy.lan:3128/"`},
		{"GET", "/setup/systemd", 200, "text/plain; charset=utf-8", string(certificate)},
		{"GET", "/setup/docker?mode=mirror", 200, "text/plain; charset=utf-8", `"registry-mirrors": ["http://proxy.lan:3128"]`},
		{"HEAD", "/setup/docker?mode=mirror", 200, "text/plain; charset=utf-8", ""},
		{"GET", "/setup/docker/undo", 200, "text/plain; charset=utf-8", "docker is as it was"},
		{"GET", "/setup/docker/undo?mode=mirror", 200, "text/plain; charset=utf-8", "docker is as it was"},
		{"GET", "/setup/systemd?mode=mirror", 400, "text/plain; charset=utf-8", "want /setup/docker"},
		{"GET", "/setup/docker?mode=mirror&no_proxy=.svc", 400, "text/plain; charset=utf-8", "leave it away"},
		{"POST", "/setup/docker", 405, "text/plain; charset=utf-8", "want GET or HEAD"},
		{"GET", "/setup/", 404, "text/plain; charset=utf-8", "buildkit"},
		{"GET", "/setup/nomad", 404, "text/plain; charset=utf-8", "buildkit"},
		{"GET", "/setup/docker/", 404, "text/plain; charset=utf-8", "buildkit"},
		{"GET", "/healthz", 200, "text/plain; charset=utf-8", "ok"},
		{"POST", "/healthz", 405, "text/plain; charset=utf-8", "want GET or HEAD"},
		{"DELETE", "/ca.crt", 405, "text/plain; charset=utf-8", "want GET or HEAD"},
		// One name for each page, and no other page.
		{"GET", "//ca.crt", 404, "text/plain; charset=utf-8", "/setup/ with one of docker"},
		{"GET", "/ca.crt/", 404, "text/plain; charset=utf-8", "/setup/ with one of docker"},
		{"GET", "/setup/../ca.crt", 404, "text/plain; charset=utf-8", "/setup/ with one of docker"},
		{"GET", "/setup%2fsystemd", 404, "text/plain; charset=utf-8", "/setup/ with one of docker"},
		{"GET", "/%63a.crt", 404, "text/plain; charset=utf-8", "/setup/ with one of docker"},
		{"GET", "/ca.key", 404, "text/plain; charset=utf-8", "/setup/ with one of docker"},
		{"GET", "/metrics", 404, "text/plain; charset=utf-8", "/setup/ with one of docker"},
		{"GET", "/debug/pprof/", 404, "text/plain; charset=utf-8", "/setup/ with one of docker"},
		{"POST", "/anything", 404, "text/plain; charset=utf-8", "/setup/ with one of docker"},
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
