package setup

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

const (
	dropinName = "zz-container-registry-proxy.conf"
	anchor     = "local/share/ca-certificates/container_registry_proxy.crt"
)

// The ways in which the script gets to a shell. URL and SHELL are filled in.
const (
	piped = `curl -fsS URL | SHELL`
	// The snippets of the originals' READMEs for the nodes of Kind, as the node's sh gets them.
	kindOfPodman = `curl -sS URL | sed s/podman\.service/containerd\.service/g | sed '/Environment/ s/$/ "NO_PROXY=127.0.0.0\/8,10.0.0.0\/8,172.16.0.0\/12,192.168.0.0\/16"/' | SHELL`
	kindOfDocker = `curl -sS URL | sed s/docker\.service/containerd\.service/g | sed '/Environment/ s/$/ "NO_PROXY=127.0.0.0\/8,10.0.0.0\/8,172.16.0.0\/12,192.168.0.0\/16"/' | SHELL`
	kindNoProxy  = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"
)

// serve starts the pages and returns their address.
func serve(t *testing.T, certificate []byte) string {
	t.Helper()
	return serveHandler(t, Handler(Config{CertificatePEM: certificate}))
}

func serveHandler(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// serveAuthority starts the pages of an authority that can be renewed.
func serveAuthority(t *testing.T, certificate []byte) (address string, renew func(certificate []byte)) {
	t.Helper()
	var current atomic.Value
	renew = func(certificate []byte) { current.Store(Handler(Config{CertificatePEM: certificate})) }
	renew(certificate)
	return serveHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		current.Load().(http.Handler).ServeHTTP(w, r)
	})), renew
}

func commandLine(way, address, shell string) string {
	return strings.NewReplacer("URL", "http://"+address+"/setup/systemd", "SHELL", shell).Replace(way)
}

func dropinOf(unit string) string { return "etc/systemd/system/" + unit + ".d/" + dropinName }

func shells() []string { return []string{"dash", "bash", "busybox sh"} }

func TestScriptSetsUpEveryService(t *testing.T) {
	t.Parallel()
	needSandbox(t, "dash", "bash", "busybox")
	certificate := newAuthority(t)
	for _, shell := range shells() {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			address, renew := serveAuthority(t, certificate)
			m := newMachine(t, []string{"update-ca-certificates"}, "docker.service", "podman.service", "containerd.service")
			line := commandLine(piped, address, shell)
			if out, err := m.run(line); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			m.wantCalls("first run", "update-ca-certificates",
				"systemctl daemon-reload", "systemctl try-restart docker.service",
				"systemctl daemon-reload", "systemctl try-restart podman.service",
				"systemctl daemon-reload", "systemctl try-restart containerd.service")
			if got := m.read(anchor); got != string(certificate) {
				t.Errorf("the machine trusts %q, want the authority", got)
			}
			for _, unit := range []string{"docker.service", "podman.service", "containerd.service"} {
				wantEnvironment(t, m.read(dropinOf(unit)), map[string]string{"HTTPS_PROXY": "http://" + address + "/"})
			}
			if out, err := m.run(line); err != nil {
				t.Fatalf("second run: %v: %s", err, out)
			}
			m.wantCalls("second run")
			// The proxy comes up with another authority at the same address.
			renewed := newAuthority(t)
			renew(renewed)
			if out, err := m.run(line); err != nil {
				t.Fatalf("run with another authority: %v: %s", err, out)
			}
			if got := m.takeCalls(); len(got) != 7 || m.read(anchor) != string(renewed) {
				t.Errorf("another authority: the machine was told %q, want three restarts; it trusts %q", got, m.read(anchor))
			}
		})
	}
}

// A node of Kind has containerd alone. The snippets put its name in the place of another unit's, which the script has
// already: it still has to be restarted once.
func TestKindSnippets(t *testing.T) {
	t.Parallel()
	needSandbox(t, "dash", "bash", "busybox")
	address := serve(t, newAuthority(t))
	for name, way := range map[string]string{"podman": kindOfPodman, "docker": kindOfDocker} {
		for _, shell := range []string{"bash", "busybox sh"} {
			t.Run(name+" with "+shell, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, []string{"update-ca-certificates"}, "containerd.service")
				for _, run := range []string{"first run", "second run"} {
					if out, err := m.run(commandLine(way, address, shell)); err != nil {
						t.Fatalf("%s: %v: %s", run, err, out)
					}
				}
				m.wantCalls("two runs", "update-ca-certificates", "systemctl daemon-reload", "systemctl try-restart containerd.service")
				wantEnvironment(t, m.read(dropinOf("containerd.service")), map[string]string{"HTTPS_PROXY": "http://" + address + "/", "NO_PROXY": kindNoProxy})
				for _, other := range []string{"docker.service", "podman.service"} {
					if got := m.read(dropinOf(other)); got != "" {
						t.Errorf("%s is not here and has a drop-in: %s", other, got)
					}
				}
			})
		}
	}
}

func wantEnvironment(t *testing.T, dropin string, want map[string]string) {
	t.Helper()
	if got := environment(t, dropin); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the drop-in sets %v, want %v:\n%s", got, want, dropin)
	}
	verify(t, dropin)
}

func TestScriptRefuses(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	address := serve(t, newAuthority(t))
	for _, tt := range []struct {
		name  string
		tools []string
		units []string
		way   string
		want  string // in what it prints
	}{
		{"no unit", []string{"update-ca-certificates"}, nil, piped, "nothing was changed"},
		{"no trust store", nil, []string{"docker.service"}, piped, "install the package ca-certificates"},
		{"no systemd", []string{"update-ca-certificates"}, []string{"docker.service"}, "rmdir /run/systemd/system; " + piped, "http://" + address + "/ says how"},
		{"not root", []string{"update-ca-certificates"}, []string{"docker.service"}, "printf '#!/bin/sh\\necho 1000\\n' >/tools/id; chmod 755 /tools/id; " + piped, "root has to run this"},
		// curl was cut off: a shell runs what has come. It must do nothing.
		{"half a script", []string{"update-ca-certificates"}, []string{"docker.service"}, "curl -fsS URL | head -n -1 | { SHELL; echo half; exit 1; }", "half"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, tt.tools, tt.units...)
			out, err := m.run(commandLine(tt.way, address, "sh"))
			if err == nil || !strings.Contains(out, tt.want) {
				t.Errorf("err = %v, output %q, want a failure that says %q", err, out, tt.want)
			}
			m.wantCalls(tt.name)
			if m.read(anchor) != "" || m.read(dropinOf("docker.service")) != "" {
				t.Error("it changed something")
			}
		})
	}
}

// A certificate that an operator brings may come with text around it, which would be the script's.
func TestTextBesideCertificates(t *testing.T) {
	t.Parallel()
	certificate := string(newAuthority(t))
	bundle := "subject=CN = x\nEND\nid >/tmp/owned; Environment podman.service\n" + certificate +
		"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n" + certificate
	got := get(Handler(Config{CertificatePEM: []byte(bundle)}), "GET", "/setup/systemd", "proxy").Body.String()
	want := get(Handler(Config{CertificatePEM: []byte(certificate + certificate)}), "GET", "/setup/systemd", "proxy").Body.String()
	if got != want || strings.Contains(got, "owned") || strings.Contains(got, "PRIVATE KEY") {
		t.Errorf("the script holds more than certificates:\n%s", got)
	}
}

// What the originals' users do with sed relies on where these words are.
func TestWordsOfTheScript(t *testing.T) {
	t.Parallel()
	script := get(Handler(Config{CertificatePEM: newAuthority(t)}), "GET", "/setup/systemd", "proxy:3128").Body.String()
	lines := 0
	for line := range strings.Lines(script) {
		if strings.Contains(line, "Environment") {
			lines++
			if !strings.HasPrefix(line, `Environment="`) || !strings.HasSuffix(line, "\"\n") || strings.Count(line, "Environment") > 1 {
				t.Errorf("sed would spoil the line %q", line)
			}
		}
	}
	if lines == 0 {
		t.Error("no line sets an environment variable")
	}
	for _, unit := range []string{"docker.service", "podman.service", "containerd.service"} {
		if !strings.Contains(script, " "+unit+" ") && !strings.Contains(script, " "+unit+";") {
			t.Errorf("%s is not written out", unit)
		}
	}
	if strings.Contains(script, "@") {
		t.Error("a place was not filled in")
	}
}
