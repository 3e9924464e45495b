package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/mitm"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/proxy"
)

// The hosts of these tests. Whatever is dialled arrives at the origin; what it was asked says whether that was right.
const (
	registryHost = "registry.test"
	hubHost      = "index.docker.io"
	plainHost    = "plain.test:5000"
)

// house is a proxy with an origin behind it that records what reaches it.
type house struct {
	t       *testing.T
	proxy   *proxy.Proxy
	address string
	roots   *x509.CertPool
	served  chan error
	log     *syncBuffer

	mu      sync.Mutex // guards the fields that follow
	dialled []string
	seen    []*http.Request
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// DialTunnel refuses one name and connects every other one to the test's far end, whose address is the name.
func (h *house) DialTunnel(ctx context.Context, authority string) (net.Conn, error) {
	h.mu.Lock()
	h.dialled = append(h.dialled, authority)
	h.mu.Unlock()
	if strings.HasPrefix(authority, "refused.test") {
		return nil, &dial.RefusedError{Address: authority, Reason: "loopback address", Setting: "ALLOWED_NETWORKS"}
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", authority)
}

func (h *house) Own(_ context.Context, hostport string) bool {
	return hostport == "ourselves.test:3128"
}

func (h *house) asked() []*http.Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*http.Request(nil), h.seen...)
}

// newHouse starts a proxy. The registry's handler answers "registry NAME PATH", our own pages "local PATH", and the
// origin, over TLS or not, what origin says.
func newHouse(t *testing.T, origin http.HandlerFunc, change func(*proxy.Config)) *house {
	t.Helper()
	h := &house{t: t, served: make(chan error, 1), log: &syncBuffer{}}
	record := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.seen = append(h.seen, r.Clone(context.Background()))
		h.mu.Unlock()
		origin(w, r)
	})
	secure, plain := httptest.NewTLSServer(record), httptest.NewServer(record)
	t.Cleanup(secure.Close)
	t.Cleanup(plain.Close)
	authority, err := mitm.Open(mitm.Config{Directory: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	h.roots = x509.NewCertPool()
	h.roots.AppendCertsFromPEM(authority.CertificatePEM())
	upstream := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			to := secure.Listener.Addr().String()
			if _, port, _ := net.SplitHostPort(address); port != "443" {
				to = plain.Listener.Addr().String()
			}
			return (&net.Dialer{}).DialContext(ctx, network, to)
		},
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // the fake origin has one certificate for all names
		DisableCompression: true,
	}
	t.Cleanup(upstream.CloseIdleConnections)
	cfg := proxy.Config{
		Intercept: func(authority string) (oci.Registry, bool) {
			reg, err := oci.ParseRegistry(authority)
			return reg, err == nil && (strings.HasPrefix(authority, registryHost) || strings.HasPrefix(authority, hubHost))
		},
		InterceptPlain: func(authority string) (oci.Registry, bool) {
			reg, err := oci.ParsePlainRegistry(authority)
			return reg, err == nil && authority == plainHost
		},
		Registry: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			reg, _ := oci.RegistryFrom(r.Context())
			fmt.Fprintf(w, "registry %s %s", reg, r.URL.EscapedPath())
		}),
		Local:     http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "local %s", r.URL.Path) }),
		Authority: authority, Dialer: h, Upstream: upstream,
		Timeouts: proxy.Timeouts{
			Send: time.Minute, Body: time.Minute, Header: time.Minute, KeepAlive: time.Minute,
			TunnelRead: time.Minute, TunnelSend: time.Minute,
		},
	}
	log := slog.New(slog.NewTextHandler(h.log, nil))
	cfg.AccessLog = accesslog.New(accesslog.Config{Log: log})
	if change != nil {
		change(&cfg)
	}
	h.proxy = proxy.New(cfg)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.address = l.Addr().String()
	go func() { h.served <- h.proxy.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // cut what is left
		_ = h.proxy.Shutdown(ctx)
		if err := <-h.served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return h
}

// client goes through the proxy and trusts its authority.
func (h *house) client() *http.Client {
	transport := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: h.address}),
		TLSClientConfig: &tls.Config{RootCAs: h.roots},
	}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// ask sends a request and returns the answer's status and body.
func (h *house) ask(c *http.Client, method, url string, body io.Reader, change func(*http.Request)) (int, string) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), method, url, body)
	if err != nil {
		h.t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := c.Do(req)
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp.StatusCode, string(b)
}

// dialProxy opens a raw connection to the proxy.
func (h *house) dialProxy() *net.TCPConn {
	h.t.Helper()
	c, err := net.Dial("tcp", h.address)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute)) // a bound on a test that hangs
	return c.(*net.TCPConn)
}

// connect opens a connection to authority through the proxy.
func (h *house) connect(authority string) (*net.TCPConn, *bufio.Reader) {
	h.t.Helper()
	c := h.dialProxy()
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil {
		h.t.Fatalf("CONNECT %s: %v", authority, err)
	}
	if resp.StatusCode != http.StatusOK {
		h.t.Fatalf("CONNECT %s: status %d, want 200", authority, resp.StatusCode)
	}
	return c, br
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	fmt.Fprintf(w, "origin %s %s %s", r.Method, r.URL.RequestURI(), body)
}

func TestInterceptedHost(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, nil)
	c := h.client()
	for _, tc := range []struct{ name, method, url, body, want string }{
		{"the registry API is ours", "GET", "https://registry.test/v2/", "", "registry registry.test /v2/"},
		{"v1 is ours", "GET", "https://registry.test/v1/repositories/x/images", "", "registry registry.test /v1/repositories/x/images"},
		{"an escaped spelling of the API is ours", "PUT", "https://registry.test/%76%32/a/manifests/x", "", "registry registry.test /%76%32/a/manifests/x"},
		{"a dotted spelling of the API is ours", "PUT", "https://registry.test/x/../v2/a/manifests/x", "", "registry registry.test /x/../v2/a/manifests/x"},
		{"a doubled slash is ours", "PUT", "https://registry.test//v2/a/manifests/x", "", "registry registry.test //v2/a/manifests/x"},
		{"a token request passes", "POST", "https://registry.test/oauth2/token", "grant_type=password", "origin POST /oauth2/token grant_type=password"},
		{"Quay's token service passes", "GET", "https://registry.test/v2/auth?scope=repository:a:pull", "", "origin GET /v2/auth?scope=repository:a:pull "},
		{"Gitea's token service passes", "POST", "https://registry.test/v2/token", "grant_type=password", "origin POST /v2/token grant_type=password"},
		{"an escaped spelling of it does not", "POST", "https://registry.test/x/../v2/token", "", "registry registry.test /x/../v2/token"},
		{"what leaves the API by dots is ours", "GET", "https://registry.test/v2/../../etc/passwd", "", "registry registry.test /v2/../../etc/passwd"},
		{"what only begins like the API passes", "GET", "https://registry.test/v2x/", "", "origin GET /v2x/ "},
		{"any method passes", "PROPFIND", "https://registry.test/dav/?a=1;b&c", "", "origin PROPFIND /dav/?a=1;b&c "},
		{"escapes are not spelt again", "GET", "https://registry.test/a%2Fb/%7Euser?x=%20", "", "origin GET /a%2Fb/%7Euser?x=%20 "},
		{"Docker Hub's search passes", "GET", "https://index.docker.io/v1/search?q=x", "", "origin GET /v1/search?q=x "},
	} {
		status, got := h.ask(c, tc.method, tc.url, strings.NewReader(tc.body), nil)
		if status != http.StatusOK || got != tc.want {
			t.Errorf("%s: %d %q, want 200 %q", tc.name, status, got, tc.want)
		}
	}
}

func TestRestIsUntouched(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "a=b")
		w.Header()["Www-Authenticate"] = []string{"Basic", "Bearer x"}
		w.WriteHeader(http.StatusTeapot)
	}, nil)
	req, _ := http.NewRequest("DELETE", "https://registry.test/rest", nil)
	req.Header.Set("Authorization", "Basic own")
	req.Header.Set("Cookie", "c=d")
	req.Header.Set("X-Forwarded-For", "192.0.2.1")
	req.Header.Set("Proxy-Authorization", "Basic secret")
	resp, err := h.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusTeapot || resp.Header.Get("Set-Cookie") != "a=b" || len(resp.Header.Values("Www-Authenticate")) != 2 {
		t.Errorf("answer is %d with %v, want the origin's own", resp.StatusCode, resp.Header)
	}
	got := h.asked()[0]
	for name, want := range map[string]string{"Authorization": "Basic own", "Cookie": "c=d", "X-Forwarded-For": "192.0.2.1", "Proxy-Authorization": ""} {
		if got.Header.Get(name) != want {
			t.Errorf("origin got %s: %q, want %q", name, got.Header.Get(name), want)
		}
	}
	if got.Host != registryHost || got.Method != "DELETE" {
		t.Errorf("origin was asked %s of %s, want DELETE of %s", got.Method, got.Host, registryHost)
	}
}

func TestAnotherHostIsMisdirected(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, nil)
	ask := func(sni, request string) int {
		t.Helper()
		conn, _ := h.connect("registry.test:443")
		c := tls.Client(conn, &tls.Config{RootCAs: h.roots, ServerName: sni, InsecureSkipVerify: sni != registryHost})
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	for _, tc := range []struct {
		name, sni, request string
		want               int
	}{
		{"the same host", registryHost, "GET /x HTTP/1.1\r\nHost: registry.test\r\n\r\n", 200},
		{"another spelling", registryHost, "GET /x HTTP/1.1\r\nHost: REGISTRY.test.:443\r\n\r\n", 200},
		{"no SNI", "", "GET /x HTTP/1.1\r\nHost: registry.test\r\n\r\n", 200},
		{"another Host", registryHost, "GET /x HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", 421},
		{"another Host for the API", registryHost, "GET /v2/ HTTP/1.1\r\nHost: other.test\r\n\r\n", 421},
		{"another port", registryHost, "GET /x HTTP/1.1\r\nHost: registry.test:5000\r\n\r\n", 421},
		{"another SNI", "other.test", "GET /x HTTP/1.1\r\nHost: registry.test\r\n\r\n", 421},
		{"absolute form of another host", registryHost, "GET https://other.test/x HTTP/1.1\r\nHost: registry.test\r\n\r\n", 421},
		{"no Host", registryHost, "GET /x HTTP/1.0\r\n\r\n", 421},
	} {
		if got := ask(tc.sni, tc.request); got != tc.want {
			t.Errorf("%s: status %d, want %d", tc.name, got, tc.want)
		}
	}
	for _, r := range h.asked() {
		if oci.CanonicalHost(strings.TrimSuffix(r.Host, ":443")) != registryHost {
			t.Errorf("origin was asked for %s", r.Host)
		}
	}
}

func TestUpgradePasses(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "echo" {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	}, nil)
	conn, _ := h.connect("registry.test:443")
	c := tls.Client(conn, &tls.Config{RootCAs: h.roots, ServerName: registryHost})
	fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: registry.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v, want 101", resp, err)
	}
	for _, word := range []string{"ping", "pong"} {
		fmt.Fprint(c, word)
		got := make([]byte, len(word))
		if _, err := io.ReadFull(br, got); err != nil || string(got) != word {
			t.Fatalf("echo of %q is %q, %v", word, got, err)
		}
	}
}

func TestNoTLSAfterConnect(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, nil)
	for name, first := range map[string]string{
		"HTTP":    "GET /v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n",
		"garbage": "\x00\x01\x02\x03\x04\x05\x06\x07",
	} {
		conn, br := h.connect("registry.test:443")
		_, _ = io.WriteString(conn, first)
		rest, _ := io.ReadAll(br)
		if !strings.Contains(string(rest), "400 Bad Request") || !strings.Contains(string(rest), "want TLS after CONNECT registry.test") {
			t.Errorf("%s after CONNECT is answered %q, want a 400 that says what is wanted", name, rest)
		}
	}
	if n := len(h.asked()); n != 0 {
		t.Errorf("origin was asked %d times, want never", n)
	}
}

func TestOversized(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, nil)
	for _, tc := range []struct {
		name   string
		change func(*http.Request)
		path   string
		want   int
	}{
		{"long target", nil, "/" + strings.Repeat("x", 9<<10), http.StatusRequestURITooLong},
		{"long header", func(r *http.Request) { r.Header.Set("X-Long", strings.Repeat("x", 64<<10)) }, "/x", http.StatusRequestHeaderFieldsTooLarge},
		{"many fields", func(r *http.Request) { r.Header["X-Many"] = strings.Split(strings.Repeat("x,", 150), ",") }, "/x", http.StatusRequestHeaderFieldsTooLarge},
	} {
		if status, _ := h.ask(h.client(), "GET", "https://registry.test"+tc.path, nil, tc.change); status != tc.want {
			t.Errorf("%s: status %d, want %d", tc.name, status, tc.want)
		}
	}
	if n := len(h.asked()); n != 0 {
		t.Errorf("origin was asked %d times, want never", n)
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, nil)
	c := h.client()
	for _, tc := range []struct {
		name, url string
		status    int
		want      string
	}{
		{"a plain registry's API", "http://plain.test:5000/v2/", 200, "registry http://plain.test:5000 /v2/"},
		{"a plain registry's rest", "http://plain.test:5000/x", 200, "origin GET /x "},
		{"any host on port 80", "http://deb.test/dists", 200, "origin GET /dists "},
		{"the API of a host that is no registry of ours", "http://deb.test/v2/", 200, "origin GET /v2/ "},
		{"any other port", "http://deb.test:8080/x", 403, "port 80 alone"},
		{"ourselves", "http://ourselves.test:3128/ca.crt", 200, "local /ca.crt"},
	} {
		status, got := h.ask(c, "GET", tc.url, nil, nil)
		if status != tc.status || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %d %q, want %d with %q", tc.name, status, got, tc.status, tc.want)
		}
	}
	status, got := h.ask(http.DefaultClient, "GET", "http://"+h.address+"/healthz", nil, nil)
	if status != 200 || got != "local /healthz" {
		t.Errorf("origin form: %d %q, want our own page", status, got)
	}
	conn := h.dialProxy()
	fmt.Fprint(conn, "GET https://registry.test/v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("absolute form of https: %v, %v, want 403", resp, err)
	}
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, func(cfg *proxy.Config) {
		cfg.HTTP2 = true
		authority, err := mitm.Open(mitm.Config{Directory: t.TempDir(), HTTP2: true})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Authority = authority
	})
	c := h.client()
	c.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	c.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true // the authority was changed above
	resp, err := c.Get("https://registry.test/v2/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK {
		t.Errorf("answer is %s %s, want HTTP/2 200", resp.Proto, resp.Status)
	}
}

// A client that is sending a body is slow as long as something comes, and gone when nothing does.
func TestBodyTimesOut(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, func(cfg *proxy.Config) { cfg.Timeouts.Body = 200 * time.Millisecond })
	conn, _ := h.connect("registry.test:443")
	c := tls.Client(conn, &tls.Config{RootCAs: h.roots, ServerName: registryHost})
	fmt.Fprint(c, "POST /upload HTTP/1.1\r\nHost: registry.test\r\nContent-Length: 10\r\n\r\nfive")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil && resp.StatusCode == http.StatusOK {
		t.Errorf("a body that never ends is answered %s", resp.Status)
	}
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a body that never ends is waited for")
	}
}

func TestHandshakeFailureIsRecorded(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, nil)
	conn, _ := h.connect("registry.test:443")
	if err := tls.Client(conn, &tls.Config{RootCAs: x509.NewCertPool(), ServerName: registryHost}).Handshake(); err == nil {
		t.Fatal("a client that trusts nobody shakes hands")
	}
	deadline := time.Now().Add(30 * time.Second)
	for !strings.Contains(h.log.String(), "does it trust the proxy's authority") {
		if time.Now().After(deadline) {
			t.Fatalf("the log says nothing of the client that does not trust us:\n%s", h.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A client's token request is answered with the operator's login where there is one, and passes otherwise.
func TestTokenForClient(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, func(cfg *proxy.Config) {
		cfg.ClientToken = func(_ context.Context, host oci.Registry, r *http.Request, _ func(oci.Registry, string) bool) *http.Response {
			if host != registryHost || r.URL.Path != "/token" {
				return nil
			}
			return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader("{}"))}
		}
	})
	c := h.client()
	if status, got := h.ask(c, "GET", "https://registry.test/token?scope=x", nil, nil); status != 200 || got != "{}" || len(h.asked()) != 0 {
		t.Errorf("token request: %d %q, and the origin was asked %d times; want our answer alone", status, got, len(h.asked()))
	}
	if status, got := h.ask(c, "GET", "https://registry.test/other", nil, nil); status != 200 || got != "origin GET /other " {
		t.Errorf("another request: %d %q, want the origin's answer", status, got)
	}
}
