package registry_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/freshness"
	"container-registry-proxy/internal/gather"
	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/registry"
	"container-registry-proxy/internal/registrytest"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// TestMain fails if goroutines outlive the tests: each would be a request, a fill or a question that never ends.
func TestMain(m *testing.M) {
	before := runtime.NumGoroutine()
	code := m.Run()
	for deadline := time.Now().Add(15 * time.Second); code == 0 && runtime.NumGoroutine() > before; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "%d goroutines outlive the tests:\n", runtime.NumGoroutine()-before)
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			code = 1
		}
	}
	os.Exit(code)
}

// plan is a proxy to be built: from the store up to the handler, as the program has it, but for the front door. Only
// world is needed.
type plan struct {
	world *registrytest.World
	// dir is the cache directory of a proxy before it; empty means a new one.
	dir string
	// central are the operator's credentials, "host:port user password".
	central []string
	// freshFor is how long every tag is fresh; 0 means that each is revalidated each time.
	freshFor    time.Duration
	rules       []freshness.Rule
	maxSize     int64
	readTimeout time.Duration
	giveUp      time.Duration
	allowPush   bool
	allowOwn    bool // ALLOW_OWN_AUTH
	pushWithOwn bool // ALLOW_PUSH_WITH_OWN_AUTH
	pushCentral bool // push: central
	buffer      bool
}

// allows are the operator's, as the program has them.
func (p plan) allows() registry.Rules {
	return registry.Rules{
		AllowPush: p.allowPush, AllowPushWithOwnAuth: p.pushWithOwn, BufferRequests: p.buffer,
		OwnFirst:    p.allowOwn || p.allowPush || p.pushWithOwn,
		PushCentral: func(oci.Registry, string) bool { return p.pushCentral },
	}
}

// house is a running proxy. Its clock stands still unless pass moves it.
type house struct {
	plan
	t        testing.TB
	store    *disk.Store
	cache    *cache.Cache
	upstream *upstream.Client
	inner    http.Handler // what is under test, alone
	server   *httptest.Server
	log      *lines
	moved    atomic.Int64
	stop     func()
}

func (p plan) build(t testing.TB) *house {
	t.Helper()
	if p.dir == "" {
		p.dir = filepath.Join(t.TempDir(), "cache")
	}
	if p.giveUp == 0 {
		p.giveUp = time.Minute // a busy machine is no outage
	}
	if p.maxSize == 0 {
		p.maxSize = 1 << 30
	}
	h := &house{plan: p, t: t, log: &lines{}}
	log := slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if h.store, err = disk.Open(disk.Config{Directory: p.dir, MaxSize: p.maxSize, Log: log}); err != nil {
		t.Fatal(err)
	}
	everyone := func(string) bool { return true }
	h.upstream = upstream.New(upstream.Config{
		Dialer: dial.New(dial.Config{Named: everyone, Resolver: p.world}), Named: everyone, Entries: p.entries(),
		TLS: &tls.Config{RootCAs: p.world.Pool()}, ReadTimeout: p.readTimeout, Log: log,
		RateLimits: ratelimit.New(ratelimit.Config{Reserve: ratelimit.DefaultReserve, DB: h.store.DB(), Log: log, Now: h.now}),
	})
	hasCentral := h.upstream.Auth().HasCentralFor
	rules, err := freshness.NewRules(freshness.Config{Enabled: true, DefaultFor: p.freshFor, Rules: p.rules})
	if err != nil {
		t.Fatal(err)
	}
	known := metadata.New(h.store.DB())
	hasher, err := secret.OpenHasher(filepath.Join(p.dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	trust := access.New(access.Config{Registries: h.upstream, Metadata: known, HasCentral: hasCentral, Keeps: rules.KeepsMissing, GiveUp: p.giveUp, Log: log, Now: h.now,
		Refused: h.upstream.Auth().Refused, Realms: h.upstream.Auth().Realms, Hasher: hasher,
		OwnFirst: func() bool { return p.allows().OwnFirst },
	})
	h.cache = cache.New(cache.Config{
		Store: h.store, Metadata: known, Access: trust, Registries: h.upstream, Freshness: rules, GiveUp: p.giveUp, Log: log, Now: h.now,
	})
	h.inner = registry.New(registry.Config{
		Cache: h.cache, Upstream: h.upstream, HasCentral: hasCentral, GiveUp: p.giveUp, Log: log,
		Trust: trust, Authorization: h.upstream.Auth().Authorization, Rules: p.allows,
	})
	h.server = httptest.NewUnstartedServer(accesslog.New(accesslog.Config{Log: log}).Handler(toRegistry(h.inner)))
	h.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	h.server.Listener = gathering{h.server.Listener}
	h.server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return gather.NewContext(ctx, c.(*gather.Conn))
	}
	h.server.Start()
	h.run()
	return h
}

// gathering gives its connections what the front door gives them.
type gathering struct{ net.Listener }

func (l gathering) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return gather.New(conn, time.Minute), nil
}

// toRegistry does what the front door does: it says which registry a request is for, here by its Host.
func toRegistry(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if reg, err := oci.ParseRegistry(r.Host); err == nil {
			r = r.WithContext(oci.NewContext(r.Context(), reg))
		}
		next.ServeHTTP(w, r)
	})
}

func (p plan) entries() (entries []auth.Entry) {
	for _, line := range p.central {
		f := strings.Fields(line)
		entries = append(entries, auth.Entry{Host: f[0], Credential: auth.Credential{Username: f[1], Password: secret.New(f[2])}})
	}
	return entries
}

// run starts what works in the background, and has all of it end with the test.
func (h *house) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = h.store.Run(ctx) }) // ends with ctx
	h.stop = sync.OnceFunc(func() {
		h.server.CloseClientConnections()
		h.server.Close()
		h.cache.Close()
		cancel()
		running.Wait()
		if err := h.store.Close(); err != nil {
			h.t.Errorf("close store: %v", err)
		}
		h.upstream.CloseIdleConnections()
	})
	h.t.Cleanup(func() {
		h.stop()
		if h.t.Failed() {
			h.t.Logf("the proxy's log:\n%s", h.log)
		}
	})
}

// again is the same proxy after a restart.
func (h *house) again() *house {
	h.t.Helper()
	h.stop()
	p := h.plan
	next := p.build(h.t)
	next.moved.Store(h.moved.Load())
	return next
}

// forgetful is the same proxy after a restart without its database: the blobs are there, and nobody knows whose they are.
func (h *house) forgetful() *house {
	h.t.Helper()
	h.stop()
	if err := os.Remove(filepath.Join(h.dir, "metadata.db")); err != nil {
		h.t.Fatal(err)
	}
	next := h.again()
	eventually(h.t, "the blobs are found", func() bool { return next.store.Usage().Blobs > 0 })
	return next
}

func (h *house) now() time.Time { return began.Add(time.Duration(h.moved.Load())) }

// began is what the proxies' clocks show that nobody has moved.
var began = time.Now()

// pass lets time pass, for all that asks the proxy's clock.
func (h *house) pass(d time.Duration) { h.moved.Add(int64(d)) }

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// answer is a response as a client got it.
type answer struct {
	what   string
	status int
	header http.Header
	length int64 // as announced
	body   []byte
	err    error // the body did not end as it should
}

// host is a registry by its authority.
type host interface{ Host() string }

// ask sends a request to a registry through the proxy. Headers are "Name: value".
func (h *house) ask(ctx context.Context, method string, r host, path string, headers ...string) answer {
	return h.send(ctx, method, r, path, nil, headers...)
}

func (h *house) get(r host, path string, headers ...string) answer {
	return h.ask(h.t.Context(), http.MethodGet, r, path, headers...)
}

func (h *house) head(r host, path string, headers ...string) answer {
	return h.ask(h.t.Context(), http.MethodHead, r, path, headers...)
}

func (h *house) send(ctx context.Context, method string, r host, path string, body io.Reader, headers ...string) answer {
	a := answer{what: fmt.Sprint(method, " ", path, " ", headers)}
	req, err := http.NewRequestWithContext(ctx, method, h.server.URL+path, body)
	if err != nil {
		a.err = err
		return a
	}
	req.Host = r.Host()
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	resp, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		a.err = err
		return a
	}
	defer resp.Body.Close()
	a.status, a.header, a.length = resp.StatusCode, resp.Header, resp.ContentLength
	a.body, a.err = registrytest.ReadBody(resp)
	return a
}

// raw sends a request of any form and returns what came back until the connection ended, and how it did.
func (h *house) raw(request string) (string, error) {
	conn, err := net.Dial("tcp", h.server.Listener.Addr().String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	return string(b), err
}

// is fails the test unless the answer is whole, with that status and, where body is not nil, that body.
func (a answer) is(t testing.TB, status int, body []byte) answer {
	t.Helper()
	if a.err != nil || a.status != status {
		t.Fatalf("%s: status %d, error %v, body %.200q, want status %d", a.what, a.status, a.err, a.body, status)
	}
	if body != nil && !bytes.Equal(a.body, body) {
		t.Fatalf("%s: %d bytes, want the %d of the content", a.what, len(a.body), len(body))
	}
	return a
}

// has fails the test unless the answer has those headers: "Name: value", or "Name:" for one that must be absent.
func (a answer) has(t testing.TB, headers ...string) answer {
	t.Helper()
	for _, line := range headers {
		name, want, _ := strings.Cut(line, ":")
		if got := strings.Join(a.header.Values(name), ", "); got != strings.TrimSpace(want) {
			t.Errorf("%s: %s is %q, want %q", a.what, name, got, strings.TrimSpace(want))
		}
	}
	return a
}

// cut fails the test unless the answer, if there was one, did not end properly.
func (a answer) cut(t testing.TB) {
	t.Helper()
	if a.err == nil {
		t.Errorf("%s: a proper end after %d bytes with status %d, want the connection cut", a.what, len(a.body), a.status)
	}
}

func manifest(repo, reference string) string { return "/v2/" + repo + "/manifests/" + reference }

func blob(repo string, d oci.Digest) string { return "/v2/" + repo + "/blobs/" + string(d) }

// counts fails the test unless the registry saw that many requests since it was last made to forget: "GET /blobs/": 1.
func counts(t testing.TB, r *registrytest.Registry, want map[string]int) {
	t.Helper()
	for what, n := range want {
		method, text, _ := strings.Cut(what, " ")
		if got := r.Count(method, text); got != n {
			t.Errorf("%d requests %s, want %d; the registry saw %q", got, what, n, registrytest.Paths(r.Requests()))
		}
	}
}

// together runs f n times at once.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

// eventually waits for what comes about by itself.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after 30 s", what)
		}
	}
}
