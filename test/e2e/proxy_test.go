package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
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
	p := &proxy{t: t, world: world, dir: t.TempDir()}
	p.address = world.Reserve("proxy").String()
	p.admin = world.Reserve("proxy-admin").String()
	p.env = append([]string{
		"LISTEN=" + p.address, "ADMIN_LISTEN=" + p.admin, "UPSTREAM_CA_FILE=" + world.CAFile(), "CACHE_MIN_FREE=1m",
		"CACHE_DIRECTORY=" + filepath.Join(p.dir, "cache"), "CA_DIRECTORY=" + filepath.Join(p.dir, "ca"),
	}, env...)
	p.start()
	return p
}

// start starts it where only this process can resolve the registries' names.
func (p *proxy) start() {
	p.t.Helper()
	hosts := writeFile(p.t, filepath.Join(p.dir, "hosts"), p.world.HostsFile())
	p.daemon = command{
		args: []string{binary, "serve"}, env: p.env,
		mounts: []string{"mount --bind " + hosts + " /etc/hosts"},
	}.start(p.t)
	p.daemon.awaitReady(answers(http.DefaultClient, "http://"+p.admin+"/readyz"))
	p.daemon.awaitReady(answers(http.DefaultClient, "http://"+p.address+"/healthz"))
}

// restart ends it and starts it on the same directories and addresses.
func (p *proxy) restart() {
	p.t.Helper()
	p.daemon.stop()
	p.start()
}

// ca is the file with the authority that clients trust.
func (p *proxy) ca() string { return filepath.Join(p.dir, "ca", "ca.crt") }

// clientEnv is what a client of the proxy is told, and all it knows: it trusts no registry by itself.
func (p *proxy) clientEnv() []string {
	url := "http://" + p.address
	return []string{"HTTPS_PROXY=" + url, "HTTP_PROXY=" + url, "NO_PROXY=", "SSL_CERT_FILE=" + p.ca(), "SSL_CERT_DIR=/nonexistent"}
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
