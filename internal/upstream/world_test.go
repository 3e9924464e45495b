package upstream_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// canary is part of every secret of these tests: it must not be seen where it does not belong.
const canary = "CANARY-8d1f3c"

// world is an internet of its own on loopback: every name under .test is there, and one authority signs for all.
type world struct {
	t     testing.TB
	roots *x509.CertPool
	ca    *x509.Certificate
	key   *ecdsa.PrivateKey
	logs  bytes.Buffer // of the client, at debug

	mu   sync.Mutex
	seen []seen
}

// seen is a request as a site saw it.
type seen struct {
	site   string // "https://name:port"
	proto  string
	method string
	uri    string
	header http.Header
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, roots: x509.NewCertPool()}
	w.ca, w.key = w.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "world"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotAfter: time.Now().Add(time.Hour),
	})
	w.roots.AddCert(w.ca)
	return w
}

func (w *world) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore = big.NewInt(time.Now().UnixNano()), time.Now().Add(-24*time.Hour)
	parent, signer := w.ca, w.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatal(err)
	}
	return cert, key
}

func (w *world) certificate(name string, notAfter time.Time) tls.Certificate {
	cert, key := w.sign(&x509.Certificate{DNSNames: []string{name}, NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// https starts a site of that name and returns its authority, "name:port". change may alter the server before it starts.
func (w *world) https(name string, handler http.HandlerFunc, change ...func(*httptest.Server)) string {
	w.t.Helper()
	server := httptest.NewUnstartedServer(nil)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{w.certificate(name, time.Now().Add(time.Hour))}}
	return w.start("https", name, server, handler, change)
}

func (w *world) http(name string, handler http.HandlerFunc) string {
	w.t.Helper()
	return w.start("http", name, httptest.NewUnstartedServer(nil), handler, nil)
}

func (w *world) start(scheme, name string, server *httptest.Server, handler http.HandlerFunc, change []func(*httptest.Server)) string {
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	for _, c := range change {
		c(server)
	}
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	authority := name + ":" + port
	server.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		w.seen = append(w.seen, seen{scheme + "://" + authority, r.Proto, r.Method, r.RequestURI, r.Header.Clone()})
		w.mu.Unlock()
		handler(rw, r)
	})
	if scheme == "https" {
		server.StartTLS()
	} else {
		server.Start()
	}
	w.t.Cleanup(server.Close)
	return authority
}

// requests are those that a site saw.
func (w *world) requests(authority string) []seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []seen
	for _, s := range w.seen {
		if strings.HasSuffix(s.site, "://"+authority) {
			out = append(out, s)
		}
	}
	return out
}

// LookupNetIP answers every name under .test with loopback.
func (w *world) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if !strings.HasSuffix(host, ".test") {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// client returns a client in this world; change may alter its configuration.
func (w *world) client(change ...func(*upstream.Config)) *upstream.Client {
	w.t.Helper()
	cfg := upstream.Config{
		Dialer: dial.New(dial.Config{Resolver: w, AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Timeout: 5 * time.Second}),
		TLS:    &tls.Config{RootCAs: w.roots},
		Log:    slog.New(slog.NewTextHandler(&w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&cfg)
	}
	c := upstream.New(cfg)
	w.t.Cleanup(c.CloseIdleConnections)
	return c
}

func registry(t *testing.T, authority string) oci.Registry {
	t.Helper()
	reg, err := oci.ParseRegistry(authority)
	if err != nil {
		t.Fatal(err)
	}
	return reg
}

func login(host string) auth.Entry {
	return auth.Entry{Host: host, Credential: auth.Credential{Username: "user", Password: secret.New(canary)}}
}

// get asks, reads the whole answer, and fails the test if there is none.
func get(t *testing.T, c *upstream.Client, req upstream.Request) (int, string) {
	t.Helper()
	if req.Method == "" {
		req.Method = http.MethodGet
	}
	resp, err := c.Do(t.Context(), req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.Path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: body: %v", req.Method, req.Path, err)
	}
	return resp.StatusCode, string(body)
}

func say(text string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, text) }
}

func redirect(status int, location *string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Location", *location)
		rw.WriteHeader(status)
	}
}
