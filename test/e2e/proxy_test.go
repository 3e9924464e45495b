package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// proxy is the program under test, with directories that outlive a restart.
type proxy struct {
	t       *testing.T
	world   *registrytest.World
	address string // of the client listener
	admin   string
	dir     string
	env     []string
	daemon  *daemon
}

// startProxy starts the program in front of registries of a world, with more settings.
func startProxy(t *testing.T, world *registrytest.World, env ...string) *proxy {
	t.Helper()
	need(t, "mount") // here for root and namespaces; it is on every Debian
	p := newProxy(t, world, env...)
	p.start()
	return p
}

// newProxy is one that has not been started.
func newProxy(t *testing.T, world *registrytest.World, env ...string) *proxy {
	t.Helper()
	p := &proxy{t: t, world: world, dir: t.TempDir()}
	p.address = world.Reserve("proxy").String()
	p.admin = world.Reserve("proxy-admin").String()
	p.env = append([]string{
		"LISTEN=" + p.address, "ADMIN_LISTEN=" + p.admin, "UPSTREAM_CA_FILE=" + world.CAFile(), "CACHE_MIN_FREE=1m",
		"CACHE_DIRECTORY=" + filepath.Join(p.dir, "cache"), "CA_DIRECTORY=" + filepath.Join(p.dir, "ca"),
	}, env...)
	return p
}

// start starts it where only this process can resolve the registries' names.
func (p *proxy) start() {
	p.t.Helper()
	p.daemon = command{args: []string{program, "serve"}, env: p.env, mounts: hostsMount(p.t, p.world)}.start(p.t)
	p.awaitReady()
}

func (p *proxy) awaitReady() {
	p.t.Helper()
	p.daemon.awaitReady(answers(http.DefaultClient, "http://"+p.admin+"/readyz"))
	p.daemon.awaitReady(answers(http.DefaultClient, "http://"+p.address+"/healthz"))
}

// restart ends it and starts it on the same directories and addresses. It returns what the one before had printed.
func (p *proxy) restart() (printed string) {
	p.t.Helper()
	p.daemon.stop()
	if code := p.daemon.exitCode(); code != 0 {
		p.t.Errorf("the proxy ended with %d after SIGTERM, want 0", code)
	}
	printed = p.daemon.text()
	p.start()
	return printed
}

// ca is the file with the authority that clients trust.
func (p *proxy) ca() string { return filepath.Join(p.dir, "ca", "ca.crt") }

// client asks through the proxy, as the programs do.
func (p *proxy) client(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: p.address}),
		TLSClientConfig: &tls.Config{RootCAs: p.roots(t)}, DisableCompression: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// roots trust the proxy's authority alone.
func (p *proxy) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(readFile(t, p.ca())) {
		t.Fatalf("%s holds no certificate", p.ca())
	}
	return pool
}

// record is a line of the access log.
type record struct {
	Msg, Method, Kind, Registry, Repository, Reference, Digest, Outcome string
	Status                                                              int
}

// records are the requests of the running process so far for a kind of a registry.
func (p *proxy) records(kind, registry string) []record {
	p.t.Helper()
	var out []record
	for line := range strings.Lines(p.daemon.text()) {
		var r record
		if json.Unmarshal([]byte(line), &r) == nil && r.Msg == "request" && r.Kind == kind && r.Registry == registry {
			out = append(out, r)
		}
	}
	return out
}

// outcomes are those of the GETs of a registry's blobs after the first skip ones.
func (p *proxy) outcomes(registry string, skip int) (outcomes []string) {
	p.t.Helper()
	for _, r := range p.records("blob", registry)[skip:] {
		if r.Method == http.MethodGet {
			outcomes = append(outcomes, r.Outcome)
		}
	}
	return outcomes
}

func (r record) String() string {
	return fmt.Sprintf("%s %s %s %s %d", r.Method, r.Kind, r.Reference, r.Outcome, r.Status)
}
