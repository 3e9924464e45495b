package app_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// entry is a house with one entry of registries in its file: "host: x, insecure: true".
func entry(t *testing.T, world *registrytest.World, fields string, environ ...string) *house {
	t.Helper()
	path := filepath.Join(t.TempDir(), "proxy.yaml")
	write(t, map[string]string{path: "registries:\n  - {" + fields + "}\n"})
	return start(t, world, append(environ, "CONFIG_FILE="+path)...)
}

// ways are the GETs of blobs that a house makes of a registry that is slow on each connection.
func (h *house) ways(reg *registrytest.Registry, size int) int {
	h.t.Helper()
	reg.Set(func(f *registrytest.Faults) { f.Body.Throttle = 4 << 20 })
	digest := reg.PutBlob("app", registrytest.Bytes(uint64(time.Now().UnixNano()), size))
	before := reg.Count("GET", "/blobs/")
	h.ask("GET", fmt.Sprintf("%s/v2/app/blobs/%s", reg.URL(), digest)).expect(h.t, 200)
	return reg.Count("GET", "/blobs/") - before
}

func effectParallelDownloads(t *testing.T) {
	world := registrytest.NewWorld(t)
	reg := registrytest.New(t, registrytest.Config{World: world})
	const size = 12 << 20
	if n := start(t, world, "REGISTRIES="+reg.Host(), "PARALLEL_DOWNLOADS=1").ways(reg, size); n != 1 {
		t.Errorf("PARALLEL_DOWNLOADS=1: %d requests for a blob, want 1", n)
	}
	if n := start(t, world, "REGISTRIES="+reg.Host(), "PARALLEL_DOWNLOADS=4").ways(reg, size); n < 2 {
		t.Errorf("PARALLEL_DOWNLOADS=4: %d requests for a blob that comes slowly, want several", n)
	}
	if n := entry(t, world, "host: "+reg.Host()+", parallel_downloads: 1").ways(reg, size); n != 1 {
		t.Errorf("parallel_downloads: 1: %d requests for a blob, want 1", n)
	}
	if n := entry(t, world, "host: "+reg.Host()+", parallel_downloads: 4", "PARALLEL_DOWNLOADS=1").ways(reg, size); n < 2 {
		t.Errorf("parallel_downloads: 4: %d requests for a blob that comes slowly, want several", n)
	}
}

// atOnce has clients ask for blobs and returns how many a registry was asked for at one time.
func (h *house) atOnce(world *registrytest.World, name string, clients int) int32 {
	h.t.Helper()
	var now, peak atomic.Int32
	reg := registrytest.New(h.t, registrytest.Config{World: world, Name: "behind." + name})
	for i := range clients {
		reg.PutBlob("app", registrytest.Bytes(uint64(i), 100_000))
	}
	inner := &httputil.ReverseProxy{Rewrite: to(h.t, reg.URL()), Transport: world.Client().Transport}
	serveTLS(h.t, world.HostMap()[name], world.Certificate(time.Now().Add(time.Hour), name), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" && strings.Contains(r.URL.Path, "/blobs/") {
			for n := now.Add(1); ; {
				if p := peak.Load(); n <= p || peak.CompareAndSwap(p, n) {
					break
				}
			}
			defer now.Add(-1)
			time.Sleep(100 * time.Millisecond) // the registry's own pace
		}
		inner.ServeHTTP(w, r)
	}))
	done := make(chan struct{})
	for i := range clients {
		go func() {
			defer func() { done <- struct{}{} }()
			address := fmt.Sprintf("https://%s:%d/v2/app/blobs/%s", name, world.HostMap()[name].Port(), digestOf(uint64(i), 100_000))
			if a, err := do(h.http, request(h.t, "GET", address, nil)); err != nil || a.status != 200 || len(a.body) != 100_000 {
				h.t.Errorf("GET of a blob: %d, %v", a.status, err)
			}
		}()
	}
	for range clients {
		<-done
	}
	return peak.Load()
}

// to has a reverse proxy ask another host.
func to(t testing.TB, address string) func(*httputil.ProxyRequest) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return func(r *httputil.ProxyRequest) { r.SetURL(u) }
}

func digestOf(seed uint64, size int) string {
	return string(oci.FromBytes(registrytest.Bytes(seed, size)))
}

func effectUpstreamConcurrency(t *testing.T) {
	world := registrytest.NewWorld(t)
	for _, name := range []string{"all.test", "one.test", "free.test"} {
		world.Reserve(name)
	}
	host := func(name string) string { return fmt.Sprintf("%s:%d", name, world.HostMap()[name].Port()) }
	if n := start(t, world, "REGISTRIES="+host("all.test"), "UPSTREAM_CONCURRENCY=2").atOnce(world, "all.test", 8); n > 2 {
		t.Errorf("UPSTREAM_CONCURRENCY=2: %d at once", n)
	}
	if n := entry(t, world, "host: "+host("one.test")+", upstream_concurrency: 1").atOnce(world, "one.test", 6); n != 1 {
		t.Errorf("upstream_concurrency: 1: %d at once", n)
	}
	if n := entry(t, world, "host: "+host("free.test")+", upstream_concurrency: 50", "UPSTREAM_CONCURRENCY=1").atOnce(world, "free.test", 8); n < 2 {
		t.Errorf("upstream_concurrency: 50: %d at once, want several", n)
	}
}

// paced reports whether a house waits before it asks a registry as often as its clients do.
func (h *house) paced(reg *registrytest.Registry) bool {
	h.t.Helper()
	for i := range 14 { // that one is missing is remembered for a moment
		h.ask("GET", fmt.Sprintf("%s/v2/app/manifests/none%d", reg.URL(), i))
	}
	return h.metric("upstream_waits_total") > 0
}

func effectUpstreamRate(t *testing.T) {
	world := registrytest.NewWorld(t)
	reg := registrytest.New(t, registrytest.Config{World: world})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	if !start(t, world, "REGISTRIES="+reg.Host(), "UPSTREAM_RATE=5").paced(reg) {
		t.Error("UPSTREAM_RATE=5: 14 requests did not wait")
	}
	if !entry(t, world, "host: "+reg.Host()+", upstream_rate: 5").paced(reg) {
		t.Error("upstream_rate: 5: 14 requests did not wait")
	}
	if entry(t, world, "host: "+reg.Host()+", upstream_rate: 10000", "UPSTREAM_RATE=1").paced(reg) {
		t.Error("upstream_rate: 10000: requests waited")
	}
}

func effectHTTPSProxy(t *testing.T) {
	world := registrytest.NewWorld(t)
	reg := registrytest.New(t, registrytest.Config{World: world, Faults: registrytest.Faults{Redirect: 307}, Login: registrytest.Bearer})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	p := httpParent(t, world, "me:pa:ss")
	h := start(t, world, "REGISTRIES="+reg.Host(), "HTTPS_PROXY=http://me:pa%3Ass@"+p.address)
	h.pull(reg, "app", "1").wantOutcomes(t, "MISS", "MISS")
	for _, host := range []string{reg.Host(), reg.TokenHost(), reg.CDNHost()} {
		if !p.reached(host) {
			t.Errorf("%s was not asked through the parent, which was asked for %q", host, p.asked)
		}
	}
	h = start(t, world, "REGISTRIES="+reg.Host(), "HTTPS_PROXY=http://me:wrong@"+p.address)
	h.ask("GET", reg.URL()+"/v2/app/manifests/1").wantError(t, "a wrong login at the parent", 503, "UNAVAILABLE", "parent proxy "+p.address, "407")
	h = start(t, world, "REGISTRIES="+reg.Host(), "HTTPS_PROXY=http://127.0.0.1:1")
	h.ask("GET", reg.URL()+"/v2/app/manifests/1").wantError(t, "no parent", 503, "UNAVAILABLE", "parent proxy 127.0.0.1:1", "refused")

	// What nobody may reach directly is not reached through a parent either.
	free := httpParent(t, world, "")
	digest := digestOf(1, 10)
	for _, target := range []string{"https://169.254.169.254/x", "https://a.localhost/x", "https://127.1/x"} {
		evil := world.Site(fmt.Sprintf("evil%d.test", len(target)), http.RedirectHandler(target, http.StatusTemporaryRedirect))
		h = start(t, world, "REGISTRIES="+evil, "ALLOWED_NETWORKS=", "HTTPS_PROXY="+free.address)
		h.ask("GET", "https://"+evil+"/v2/app/blobs/"+digest).wantError(t, target, 403, "DENIED", "refused")
	}
	for _, asked := range free.asked {
		if !strings.HasPrefix(asked, "evil") && asked != free.address { // it is asked whether it is ourselves
			t.Errorf("the parent was asked for %s", asked)
		}
	}
}

// A client's own setting, which a container engine hands to every container, must not send the proxy to itself.
func TestAProxyIsNotItsOwnParent(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	reg := registrytest.New(t, registrytest.Config{World: world})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	front := listenLocally(t) // an address of the host's, which leads to the container
	h := start(t, world, "REGISTRIES="+reg.Host(), "HTTPS_PROXY=http://"+front.Addr().String())
	go func() { // until the listener is closed
		for {
			conn, err := front.Accept()
			if err != nil {
				return
			}
			inner, err := net.Dial("tcp", h.address)
			if err != nil {
				_ = conn.Close()
				return
			}
			go join(conn, inner)
		}
	}()
	h.pull(reg, "app", "1")
	h.log.await(t, func(l line) bool { return l.Level == "WARN" && strings.Contains(l.Msg, "names this proxy itself") })
}

func effectHTTPProxy(t *testing.T) {
	world := registrytest.NewWorld(t)
	reg := registrytest.New(t, registrytest.Config{World: world, PlainHTTP: true})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	p := httpParent(t, world, "me:secret")
	entry(t, world, "host: "+reg.Host()+", plain_http: true", "HTTP_PROXY=http://me:secret@"+p.address).pullAt("https://"+reg.Host(), "app", "1")
	if !p.reached(reg.Host()) {
		t.Errorf("the parent was asked for %q, want %s", p.asked, reg.Host())
	}
	h := entry(t, world, "host: "+reg.Host()+", plain_http: true", "HTTP_PROXY=http://me:wrong@"+p.address)
	h.ask("GET", "https://"+reg.Host()+"/v2/app/manifests/1").wantError(t, "a wrong login at the parent", 503, "UNAVAILABLE", "parent proxy "+p.address, "407")
}

func effectNoProxy(t *testing.T) {
	world := registrytest.NewWorld(t)
	reg := registrytest.New(t, registrytest.Config{World: world})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	p := httpParent(t, world, "")
	start(t, world, "REGISTRIES="+reg.Host(), "HTTPS_PROXY="+p.address, "NO_PROXY=.elsewhere.test,registry.test").pull(reg, "app", "1")
	if p.reached(reg.Host()) {
		t.Error("NO_PROXY names the registry, and the parent was asked for it")
	}
}

// TestRegistriesOneByOne has for each field of an entry what it does.
func TestRegistriesOneByOne(t *testing.T) {
	t.Parallel()
	for name, effect := range map[string]func(*testing.T){
		"ca_file": entryCAFile, "insecure": entryInsecure, "plain_http": entryPlainHTTP, "client_certificate": entryClientCertificate,
		"proxy": entryProxy, "connect_timeout": entryConnectTimeout, "read_timeout": entryReadTimeout,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			effect(t)
		})
	}
}

func entryCAFile(t *testing.T) {
	world := registrytest.NewWorld(t)
	reg := registrytest.New(t, registrytest.Config{World: world, Login: registrytest.Bearer, Faults: registrytest.Faults{Redirect: 307}})
	other := registrytest.New(t, registrytest.Config{World: world, Name: "other.test"})
	for _, r := range []*registrytest.Registry{reg, other} {
		r.PushImage("app", "1", layers(1, 1, 1000)...)
	}
	h := entry(t, world, "host: "+reg.Host()+", ca_file: "+world.CAFile(), "UPSTREAM_CA_FILE=")
	h.pull(reg, "app", "1") // its token service and its CDN too
	start(t, world, "REGISTRIES="+other.Host(), "UPSTREAM_CA_FILE=").ask("GET", other.URL()+"/v2/app/manifests/1").
		wantError(t, "another registry of that authority", 503, "UNAVAILABLE", "unknown authority")
}

func entryInsecure(t *testing.T) {
	world := registrytest.NewWorld(t)
	reg := registrytest.New(t, registrytest.Config{World: world, Login: registrytest.Bearer, Faults: registrytest.Faults{Redirect: 307}})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	h := entry(t, world, "host: "+reg.Host()+", insecure: true", "UPSTREAM_CA_FILE=")
	h.pull(reg, "app", "1")
	h.log.await(t, func(l line) bool { return l.Level == "WARN" && strings.Contains(l.Msg, reg.Host()+": insecure: true") })
	if h.metric("upstream_unprotected", "registry", reg.Host(), "how", "insecure") != 1 {
		t.Error("no metric says that the registry is asked insecurely")
	}
}

func entryPlainHTTP(t *testing.T) {
	world := registrytest.NewWorld(t)
	reg := registrytest.New(t, registrytest.Config{
		World: world, PlainHTTP: true, Login: registrytest.Bearer, TokenName: "registry.test",
		Users: map[string]string{"robot": "secret"}, Private: map[string][]string{"app": {"robot"}},
		Faults: registrytest.Faults{Redirect: 307},
	})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	h := entry(t, world, "host: "+reg.Host()+", plain_http: true", "AUTH_REGISTRY_DELIMITER=|", "AUTH_REGISTRIES="+reg.Host()+"|robot|secret")
	h.pullAt("https://"+reg.Host(), "app", "1").wantOutcomes(t, "MISS", "MISS")
	h.log.await(t, func(l line) bool {
		return l.Level == "WARN" && strings.Contains(l.Msg, reg.Host()+": plain_http: true")
	})
	if h.metric("upstream_unprotected", "registry", reg.Host(), "how", "plain_http") != 1 {
		t.Error("no metric says that the registry is asked in plain HTTP")
	}
	if a := h.ask("GET", "https://"+reg.Host()+"/elsewhere"); a.status != 404 {
		t.Errorf("a path that passes through: %d, want the registry's 404", a.status)
	}
}

func entryClientCertificate(t *testing.T) {
	world := registrytest.NewWorld(t)
	behind := registrytest.New(t, registrytest.Config{World: world, Name: "behind.test"})
	behind.PushImage("app", "1", layers(1, 1, 1000)...)
	at := world.Reserve("strict.test")
	host := fmt.Sprintf("strict.test:%d", at.Port())
	mine := world.Certificate(time.Now().Add(time.Hour), "client.test")
	strict := listenAt(t, at.String(), &tls.Config{
		Certificates: []tls.Certificate{world.Certificate(time.Now().Add(time.Hour), "strict.test")}, ClientAuth: tls.RequireAnyClientCert,
	})
	server := &http.Server{ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !bytes.Equal(r.TLS.PeerCertificates[0].Raw, mine.Certificate[0]) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		(&httputil.ReverseProxy{Rewrite: to(t, behind.URL()), Transport: world.Client().Transport}).ServeHTTP(w, r)
	})}
	t.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(strict) }() // until it is closed
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(mine.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, map[string]string{
		filepath.Join(dir, "c.crt"): string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: mine.Certificate[0]})),
		filepath.Join(dir, "c.key"): string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
	})
	fields := fmt.Sprintf("host: %s, client_certificate: %s, client_key: %s", host, filepath.Join(dir, "c.crt"), filepath.Join(dir, "c.key"))
	entry(t, world, fields).pullAt("https://"+host, "app", "1").wantOutcomes(t, "MISS", "MISS")
	start(t, world, "REGISTRIES="+host).ask("GET", "https://"+host+"/v2/app/manifests/1").wantError(t, "without a certificate", 503, "UNAVAILABLE", "TLS")
}

func listenAt(t testing.TB, address string, config *tls.Config) net.Listener {
	t.Helper()
	l, err := tls.Listen("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func entryProxy(t *testing.T) {
	world := registrytest.NewWorld(t)
	reg := registrytest.New(t, registrytest.Config{World: world, Login: registrytest.Bearer, Faults: registrytest.Faults{Redirect: 307}})
	other := registrytest.New(t, registrytest.Config{World: world, Name: "other.test"})
	for _, r := range []*registrytest.Registry{reg, other} {
		r.PushImage("app", "1", layers(1, 1, 1000)...)
	}
	socks := socksParent(t, world)
	h := entry(t, world, "host: "+reg.Host()+", proxy: socks5://"+socks.address, "REGISTRIES="+other.Host())
	h.pull(reg, "app", "1")
	h.pull(other, "app", "1")
	for _, host := range []string{reg.Host(), reg.TokenHost(), reg.CDNHost()} {
		if !socks.reached(host) {
			t.Errorf("%s was not asked through the parent, which was asked for %q", host, socks.asked)
		}
	}
	if socks.reached(other.Host()) {
		t.Error("the parent of one registry was asked for another")
	}

	secret := filepath.Join(t.TempDir(), "secret")
	write(t, map[string]string{secret: "pa:ss\n"})
	p := httpParent(t, world, "me:pa:ss")
	entry(t, world, fmt.Sprintf("host: %s, proxy: %s, proxy_username: me, proxy_password_file: %s", reg.Host(), p.address, secret)).pull(reg, "app", "1")
	if !p.reached(reg.Host()) {
		t.Error("the parent was not asked")
	}
	entry(t, world, "host: "+reg.Host()+", proxy: none", "HTTPS_PROXY=http://127.0.0.1:1").pull(reg, "app", "1")
}

func entryConnectTimeout(t *testing.T) {
	hole := blackHole(t)
	h := entry(t, registrytest.NewWorld(t), "host: '"+hole.String()+"', connect_timeout: "+brief)
	h.ask("GET", "https://"+hole.String()+"/v2/app/manifests/1").wantError(t, "a black hole", 504, "UNAVAILABLE", "no answer in time")
}

func entryReadTimeout(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Registry: registrytest.Outage{Hang: true}}})
	h := entry(t, reg.World, "host: "+reg.Host()+", read_timeout: "+brief)
	h.ask("GET", reg.URL()+"/v2/app/manifests/1").wantError(t, "a registry that hangs", 504, "UNAVAILABLE", "no answer in time")
}
