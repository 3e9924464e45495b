package app_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/app"
	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/registrytest"
)

// patience bounds every wait of these tests. It is short of the time-outs' default, a minute, so that what comes only
// because of a default comes too late.
const patience = 3 * time.Minute

// house is the whole program, in this process and on loopback: settings go in, clients and the operator come in over
// its two listeners, and the registries of a world are its internet.
type house struct {
	t       *testing.T
	world   *registrytest.World
	app     *app.App
	address string // for clients
	admin   string // for the operator
	config  string // the YAML file, if there is one
	root    string // holds the directories of cache and authority, and nothing else
	log     *logLines
	trusted *x509.CertPool // the proxy's authority alone
	http    *http.Client   // over CONNECT, trusting nobody else

	end    context.CancelFunc // as a SIGTERM
	served chan error
	once   sync.Once
	result error
}

// plan is a house to be built. Only world is needed.
type plan struct {
	world    *registrytest.World
	resolver dial.Resolver // nil means the world
	root     string        // of a house before it; empty means a new one
	environ  []string      // beside what every house has; what is set here wins
}

// start builds a house in a world.
func start(t *testing.T, world *registrytest.World, environ ...string) *house {
	t.Helper()
	return plan{world: world, environ: environ}.start(t)
}

// settings are those that every house has: what it needs to stay on loopback and in its own directory.
func (p plan) settings() []string {
	return append([]string{
		"LISTEN=127.0.0.1:0", "ADMIN_LISTEN=127.0.0.1:0",
		"CACHE_DIRECTORY=" + filepath.Join(p.root, "cache"), "CA_DIRECTORY=" + filepath.Join(p.root, "ca"),
		"UPSTREAM_CA_FILE=" + p.world.CAFile(), "ALLOWED_NETWORKS=127.0.0.0/8", "CACHE_MIN_FREE=0",
	}, p.environ...)
}

func (p plan) start(t *testing.T) *house {
	t.Helper()
	h, err := p.open(t)
	if err != nil {
		t.Fatalf("start with %q: %v", p.environ, err)
	}
	return h
}

// open builds the house and has it serve, until the end of the test at the latest.
func (p plan) open(t *testing.T) (*house, error) {
	t.Helper()
	if p.root == "" {
		p.root = t.TempDir()
	}
	if p.resolver == nil {
		p.resolver = p.world
	}
	cfg, err := config.Load(p.settings())
	if err != nil {
		return nil, err
	}
	h := &house{t: t, world: p.world, root: p.root, log: newLogLines(), served: make(chan error, 1)}
	if h.app, err = app.NewIn(p.resolver, cfg, app.NewLogger(cfg, h.log)); err != nil {
		return nil, err
	}
	if err := h.app.Listen(); err != nil {
		_ = h.app.Close(t.Context())
		return nil, err
	}
	h.address, h.admin = h.app.Addr().String(), h.app.AdminAddr().String()
	var ctx context.Context
	ctx, h.end = context.WithCancel(context.Background())
	go func() { h.served <- h.app.Serve(ctx) }() // close takes its result
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	h.trust()
	return h, nil
}

// close ends the house and waits for its end. What it says the first time it says again.
func (h *house) close() error {
	h.once.Do(func() {
		if h.http != nil {
			h.http.CloseIdleConnections()
		}
		h.end()
		select {
		case h.result = <-h.served:
		case <-time.After(patience):
			h.result = fmt.Errorf("still serving %v after the end; its log:\n%s", patience, h.log)
		}
	})
	return h.result
}

// trust makes the client that a person would set up: it gets the authority from the proxy.
func (h *house) trust() {
	h.t.Helper()
	pem := h.local("GET", "/ca.crt").expect(h.t, 200, "BEGIN CERTIFICATE")
	h.trusted = x509.NewCertPool()
	if !h.trusted.AppendCertsFromPEM(pem.body) {
		h.t.Fatalf("/ca.crt holds no certificate: %q", pem.body)
	}
	h.http = h.client(nil)
}

// client asks over CONNECT.
func (h *house) client(change func(*http.Transport)) *http.Client {
	transport := &http.Transport{
		Proxy:              http.ProxyURL(&url.URL{Scheme: "http", Host: h.address}),
		TLSClientConfig:    &tls.Config{RootCAs: h.trusted},
		DisableCompression: true,
	}
	if change != nil {
		change(transport)
	}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// answer is a response that has been read to its end, or as far as it came.
type answer struct {
	status int
	header http.Header
	proto  int
	last   bool // it says that the connection ends with it
	body   []byte
	cut    error // what ended the body before its time
}

// expect fails the test unless the status is that one and the body has all the words.
func (a answer) expect(t testing.TB, status int, words ...string) answer {
	t.Helper()
	if a.status != status || a.cut != nil {
		t.Fatalf("answered %d, %v, %.500q, want %d", a.status, a.cut, a.body, status)
	}
	for _, word := range words {
		if !strings.Contains(string(a.body), word) {
			t.Errorf("answered %.500q, want %q in it", a.body, word)
		}
	}
	return a
}

// outcome is the response's plain word for what the cache did.
func (a answer) outcome() string { return a.header.Get("X-Cache") }

// do sends a request and reads the whole answer.
func do(client *http.Client, req *http.Request) (answer, error) {
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header, proto: resp.ProtoMajor}
	a.body, a.cut = registrytest.ReadBody(resp)
	return a, nil
}

// request makes a request; header is names and values by turns.
func request(t testing.TB, method, address string, body io.Reader, header ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, address, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return req
}

// ask asks a host through the proxy.
func (h *house) ask(method, address string, header ...string) answer {
	h.t.Helper()
	a, err := do(h.http, request(h.t, method, address, nil, header...))
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, address, err)
	}
	return a
}

// local asks the clients' listener itself, in origin form.
func (h *house) local(method, path string, header ...string) answer {
	h.t.Helper()
	return direct(h.t, method, "http://"+h.address+path, header...)
}

// operator asks the operator's listener.
func (h *house) operator(path string) answer {
	h.t.Helper()
	return direct(h.t, "GET", "http://"+h.admin+path)
}

func direct(t testing.TB, method, address string, header ...string) answer {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	a, err := do(&http.Client{Transport: transport, Timeout: patience}, request(t, method, address, nil, header...))
	if err != nil {
		t.Fatalf("%s %s: %v", method, address, err)
	}
	return a
}

// wire is a client's bare connection, and what is read from it.
type wire struct {
	net.Conn
	*bufio.Reader
}

func newWire(conn net.Conn) wire { return wire{conn, bufio.NewReader(conn)} }

func (w wire) Read(p []byte) (int, error) { return w.Reader.Read(p) }

// dial opens a bare connection to the clients' listener.
func (h *house) dial() wire {
	h.t.Helper()
	conn, err := net.DialTimeout("tcp", h.address, patience)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return newWire(conn)
}

// connect asks for a connection to authority and returns it with the answer, whose body has been read if there is one.
func (h *house) connect(authority string) (wire, answer) {
	h.t.Helper()
	w := h.dial()
	fmt.Fprintf(w, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	resp, err := http.ReadResponse(w.Reader, &http.Request{Method: "CONNECT"})
	if err != nil {
		h.t.Fatalf("CONNECT %s: %v", authority, err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header}
	if a.status != http.StatusOK {
		a.body, a.cut = registrytest.ReadBody(resp)
	}
	return w, a
}

// tunnel opens one that has to succeed.
func (h *house) tunnel(authority string) wire {
	h.t.Helper()
	w, a := h.connect(authority)
	a.expect(h.t, 200)
	return w
}

// intercepts reports who ends the TLS of a connection to authority: the proxy, with a leaf of its own authority, or, over
// a tunnel, a host of the world.
func (h *house) intercepts(authority string) bool {
	h.t.Helper()
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		h.t.Fatal(err)
	}
	conn := tls.Client(h.tunnel(authority), &tls.Config{ServerName: host, InsecureSkipVerify: true}) // who it is is the question
	defer conn.Close()
	if err := conn.HandshakeContext(h.t.Context()); err != nil {
		h.t.Fatalf("TLS with %s: %v", authority, err)
	}
	chain := conn.ConnectionState().PeerCertificates
	for name, pool := range map[string]*x509.CertPool{"proxy": h.trusted, "world": h.world.Pool()} {
		options := x509.VerifyOptions{Roots: pool, DNSName: host, Intermediates: x509.NewCertPool()}
		for _, cert := range chain[1:] {
			options.Intermediates.AddCert(cert)
		}
		if _, err := chain[0].Verify(options); err == nil {
			return name == "proxy"
		}
	}
	h.t.Fatalf("%s: the certificate for %q is neither the proxy's nor the world's", authority, chain[0].DNSNames)
	return false
}

// serveTLS serves a host with a certificate of the test's choice until the end of the test.
func serveTLS(t *testing.T, at netip.AddrPort, cert tls.Certificate, handler http.Handler) {
	t.Helper()
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	t.Cleanup(func() { _ = server.Close() })
	go func() { // until it is closed
		_ = server.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}}))
	}()
}
