package setup

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// registries are those of the proxy in these tests.
var registries = []string{"docker.io", "quay.io", "reg.test:5000"}

// setting is a client in a mode, on a machine that has it.
type setting struct {
	client, query string
	units         []string
	// changes are the files that the script makes, with a part of each.
	changes map[string]string
	// calls are what the machine is told, after the trust store, by the script and by its undo.
	calls, undone []string
}

const containersConf = "etc/containers/containers.conf.d/zz-container-registry-proxy.conf"

func settings() []setting {
	restarted := func(unit string) []string {
		return []string{"systemctl daemon-reload", "systemctl try-restart " + unit}
	}
	environment := func(client, unit, line string) setting {
		return setting{client, "", []string{unit}, map[string]string{dropinOf(unit): line}, restarted(unit), restarted(unit)}
	}
	const https = `Environment="HTTPS_PROXY=http://ADDRESS/"`
	const mirrors = "prefix = \"quay.io\"\nlocation = \"quay.io\"\n[[registry.mirror]]\nlocation = \"ADDRESS/quay.io\"\ninsecure = true\n"
	const drop = "etc/containers/registries.conf.d/zz-container-registry-proxy.conf"
	return []setting{
		environment("docker", "docker.service", https),
		environment("containerd", "containerd.service", https),
		environment("crio", "crio.service", https),
		environment("buildkit", "buildkit.service", https),
		environment("k3s", "k3s-agent.service", `Environment="CONTAINERD_HTTPS_PROXY=http://ADDRESS/"`),
		{"podman", "", nil, map[string]string{containersConf: `env = ["HTTPS_PROXY=http://ADDRESS/"]`}, nil, nil},
		{"docker", "?mode=mirror", []string{"docker.service"}, map[string]string{"etc/docker/daemon.json": `"registry-mirrors": ["http://ADDRESS"]`},
			[]string{"systemctl try-reload-or-restart docker.service"}, []string{"systemctl try-reload-or-restart docker.service"}},
		{"containerd", "?mode=mirror", []string{"containerd.service"}, map[string]string{
			"etc/containerd/config.toml": `config_path = "/etc/containerd/certs.d"`, "etc/containerd/certs.d/_default/hosts.toml": `[host."http://ADDRESS"]`,
		}, restarted("containerd.service"), restarted("containerd.service")},
		{"podman", "?mode=mirror", nil, map[string]string{drop: mirrors}, nil, nil},
		{"crio", "?mode=mirror", []string{"crio.service"}, map[string]string{drop: mirrors},
			[]string{"systemctl try-reload-or-restart crio.service"}, []string{"systemctl try-reload-or-restart crio.service"}},
		{"buildkit", "?mode=mirror", []string{"buildkit.service"}, map[string]string{
			"etc/buildkit/buildkitd.toml": "[registry.\"quay.io\"]\n  mirrors = [\"ADDRESS\"]\n",
		}, restarted("buildkit.service"), restarted("buildkit.service")},
		{"k3s", "?mode=mirror", []string{"k3s.service"}, map[string]string{
			"etc/rancher/k3s/registries.yaml": "  \"reg.test:5000\":\n    endpoint: [\"http://ADDRESS\"]\n",
		}, restarted("k3s.service"), restarted("k3s.service")},
	}
}

// overTLS are the clients in mirror mode where the proxy is reached over TLS: none takes an insecure registry, and the
// authority is in a file of the client's own.
func overTLS() []setting {
	const authority = "-----BEGIN CERTIFICATE-----"
	const mirrors = "location = \"ADDRESS/quay.io\"\n[[registry]]"
	const drop = "etc/containers/registries.conf.d/zz-container-registry-proxy.conf"
	const certs = "etc/containers/certs.d/ADDRESS/ca.crt"
	settings := settings()
	settings = slices.DeleteFunc(settings, func(s setting) bool { return s.query == "" })
	for i, changes := range []map[string]string{
		{"etc/docker/daemon.json": "{\n  \"registry-mirrors\": [\"https://ADDRESS\"]\n}\n", "etc/docker/certs.d/ADDRESS/ca.crt": authority},
		{
			"etc/containerd/certs.d/_default/hosts.toml":  "[host.\"https://ADDRESS\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"/etc/containerd/container-registry-proxy.crt\"\n",
			"etc/containerd/container-registry-proxy.crt": authority,
		},
		{drop: mirrors, certs: authority},
		{drop: mirrors, certs: authority},
		{"etc/buildkit/buildkitd.toml": "[registry.\"ADDRESS\"]\n  ca = [\"/etc/buildkit/container-registry-proxy.crt\"]\n", "etc/buildkit/container-registry-proxy.crt": authority},
		{
			"etc/rancher/k3s/registries.yaml":              "    endpoint: [\"https://ADDRESS\"]\nconfigs:\n  \"ADDRESS\":\n    tls:\n      ca_file: /etc/rancher/k3s/container-registry-proxy.crt\n",
			"etc/rancher/k3s/container-registry-proxy.crt": authority,
		},
	} {
		settings[i].changes = changes
	}
	return settings
}

// newClientMachine has the units, a trust store, and the programs that scripts look for.
func newClientMachine(t *testing.T, units ...string) *machine {
	t.Helper()
	m := newMachine(t, []string{"update-ca-certificates"}, units...)
	for _, program := range []string{"podman", "dockerd", "k3s", "crio"} {
		m.write("tools/"+program, "#!/bin/sh\nexit 1\n", 0o755)
	}
	m.write("tools/containerd", "#!/bin/sh\ncat /etc/containerd/config.toml\n", 0o755)
	m.mkdir("var/lib")
	return m
}

// tree is every file and directory of a machine that a script could change, as text.
func (m *machine) tree() string {
	m.t.Helper()
	var all strings.Builder
	for _, top := range []string{"etc", "var", "local"} {
		err := filepath.WalkDir(filepath.Join(m.root, top), func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(path, m.root)
			fmt.Fprintf(&all, "%s %v\n%s\n", name, info.Mode(), m.content(name, info))
			return nil
		})
		if err != nil {
			m.t.Fatal(err)
		}
	}
	return all.String()
}

func (m *machine) content(name string, info fs.FileInfo) string {
	if info.IsDir() {
		return ""
	}
	return m.read(name)
}

func (m *machine) mustRun(commandLine string) string {
	m.t.Helper()
	out, err := m.run(commandLine)
	if err != nil {
		m.t.Fatalf("%s: %v: %s", commandLine, err, out)
	}
	return out
}

// serveScripts starts the pages of a proxy and returns its address.
func serveScripts(t *testing.T) string {
	t.Helper()
	return serveHandler(t, Handler(Config{CertificatePEM: newAuthority(t), Registries: registries}))
}

func script(address, path string) string {
	return fmt.Sprintf("curl -fsS 'http://%s/setup/%s' | sh", address, path)
}

// Every client in every mode: once, again without a change, and back to what was there.
func TestSetUpAndUndo(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	plain := serveScripts(t)
	tls := serveHandler(t, Handler(Config{CertificatePEM: newAuthority(t), Registries: registries, Address: "https://Proxy.example"}))
	for _, s := range settings() {
		t.Run(s.client+s.query, func(t *testing.T) {
			t.Parallel()
			s.run(t, plain, plain)
		})
	}
	for _, s := range overTLS() {
		t.Run(s.client+s.query+" over TLS", func(t *testing.T) {
			t.Parallel()
			s.run(t, tls, "proxy.example:443")
		})
	}
}

// run runs the script that is served at an address, which names the proxy as known.
func (s setting) run(t *testing.T, address, known string) {
	t.Helper()
	m := newClientMachine(t, s.units...)
	before := m.tree()
	trusted, distrusted := []string{"update-ca-certificates"}, []string{"update-ca-certificates --fresh"}
	if s.query != "" {
		trusted, distrusted = nil, nil
	}
	m.mustRun(script(address, s.client+s.query))
	m.wantCalls("first run", append(trusted, s.calls...)...)
	for file, want := range s.changes {
		file, want = strings.ReplaceAll(file, "ADDRESS", known), strings.ReplaceAll(want, "ADDRESS", known)
		if got := m.read(file); !strings.Contains(got, want) {
			t.Errorf("%s is %q, want %q in it", file, got, want)
		}
	}
	if got := m.read(anchor) != ""; got != (s.query == "") {
		t.Errorf("an authority is trusted: %t", got)
	}
	after := m.tree()
	if out := m.mustRun(script(address, s.client+s.query)); !strings.Contains(out, s.client+" is set up") {
		t.Errorf("second run: %s", out)
	}
	m.wantCalls("second run")
	if got := m.tree(); got != after {
		t.Errorf("the second run changed something:\n%s\nwas\n%s", got, after)
	}
	m.mustRun(script(address, s.client+"/undo"))
	m.wantCalls("undo", append(distrusted, s.undone...)...)
	if got := m.tree(); got != before {
		t.Errorf("after the undo there is\n%s\nbefore there was\n%s", got, before)
	}
	if out := m.mustRun(script(address, s.client+"/undo")); !strings.Contains(out, "nothing was changed") {
		t.Errorf("second undo: %s", out)
	}
	m.wantCalls("second undo")
}

// What others wrote is never written over, and what they have to write themselves is said.
func TestFilesOfOthers(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	address := serveScripts(t)
	for _, tt := range []struct {
		name, client, file, content string
		fails                       bool
		want                        string // in what is printed
	}{
		{"a daemon.json", "docker?mode=mirror", "etc/docker/daemon.json", `{"live-restore": true}`, true, `"registry-mirrors": ["http://ADDRESS"]`},
		{"a daemon.json with the mirror", "docker?mode=mirror", "etc/docker/daemon.json", `{"registry-mirrors": ["http://ADDRESS"]}`, false, "names the proxy already"},
		{"a containerd without mirrors", "containerd?mode=mirror", "etc/containerd/config.toml", "version = 2\n", true, `[plugins."io.containerd.grpc.v1.cri".registry]`},
		{"a containerd 2 without mirrors", "containerd?mode=mirror", "etc/containerd/config.toml", "version = 3\n", true, `[plugins."io.containerd.cri.v1.images".registry]`},
		{"a containerd with mirrors", "containerd?mode=mirror", "etc/containerd/config.toml", "config_path = '/etc/containerd/certs.d'\n", false, "now pulls through"},
		{"a mirror for everything", "containerd?mode=mirror", "etc/containerd/certs.d/_default/hosts.toml", "[host.\"https://mine.test\"]\n", false, "now pulls through"},
		{"a buildkitd.toml", "buildkit?mode=mirror", "etc/buildkit/buildkitd.toml", "debug = true\n", true, `mirrors = ["ADDRESS"]`},
		{"a registries.yaml", "k3s?mode=mirror", "etc/rancher/k3s/registries.yaml", "mirrors: {}\n", true, `endpoint: ["http://ADDRESS"]`},
		{"podman's environment", "podman", "etc/containers/containers.conf", "[engine]\nenv = [\"A=b\"]\n", true, `"HTTPS_PROXY=http://ADDRESS/"`},
		{"a registry of podman's", "podman?mode=mirror", "etc/containers/registries.conf", "[[registry]]\nprefix = \"quay.io\"\nblocked = true\n", false, "quay.io is left as"},
		{"a drop-in of the same name", "docker", dropinOf("docker.service"), "[Service]\n", true, "nothing is written over it"},
		{"an authority of the same name", "docker", anchor, "mine\n", true, "nothing is written over it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newClientMachine(t, "docker.service", "containerd.service", "buildkit.service", "k3s.service")
			content := strings.ReplaceAll(tt.content, "ADDRESS", address)
			m.mkdir(filepath.Dir(tt.file))
			m.write(tt.file, content, 0o640)
			before := m.tree()
			out, err := m.run(script(address, tt.client))
			if (err != nil) != tt.fails || !strings.Contains(out, strings.ReplaceAll(tt.want, "ADDRESS", address)) {
				t.Errorf("err = %v, printed %q, want %q", err, out, tt.want)
			}
			if m.read(tt.file) != content {
				t.Errorf("%s is now %q", tt.file, m.read(tt.file))
			}
			if name, _, _ := strings.Cut(tt.client, "?"); !tt.fails {
				m.mustRun(script(address, name+"/undo"))
			} else if calls := m.takeCalls(); len(calls) > 0 && tt.file != dropinOf("docker.service") {
				t.Errorf("it refused, and did %q", calls)
			} else if len(calls) > 0 {
				m.mustRun(script(address, name+"/undo"))
			}
			if got := m.tree(); got != before {
				t.Errorf("there is\n%s\nbefore there was\n%s", got, before)
			}
		})
	}
}

// A mirror for everything that somebody else has stays, and the registries get theirs beside it.
func TestMirrorBesideAnother(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	address := serveScripts(t)
	m := newClientMachine(t, "containerd.service")
	m.mkdir("etc/containerd/certs.d/_default")
	m.mkdir("etc/containerd/certs.d/quay.io")
	for _, file := range []string{"etc/containerd/certs.d/_default/hosts.toml", "etc/containerd/certs.d/quay.io/hosts.toml"} {
		m.write(file, "mine\n", 0o644)
	}
	out := m.mustRun(script(address, "containerd?mode=mirror"))
	if !strings.Contains(out, "quay.io/hosts.toml is left as it is") {
		t.Errorf("printed %q", out)
	}
	for _, name := range []string{"docker.io", "reg.test:5000"} {
		if got := m.read("etc/containerd/certs.d/" + name + "/hosts.toml"); !strings.Contains(got, address) {
			t.Errorf("%s has no mirror: %q", name, got)
		}
	}
}

func TestMachinesThatChange(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	address := serveScripts(t)
	t.Run("what was changed since is left", func(t *testing.T) {
		t.Parallel()
		m := newClientMachine(t, "docker.service")
		m.mustRun(script(address, "docker?mode=mirror"))
		const mine = `{"registry-mirrors": [], "debug": true}`
		m.write("etc/docker/daemon.json", mine, 0o644)
		if out, err := m.run(script(address, "docker?mode=mirror")); err == nil {
			t.Errorf("the script runs over it: %s", out)
		}
		if out := m.mustRun(script(address, "docker/undo")); !strings.Contains(out, "daemon.json was changed since") {
			t.Errorf("undo: %s", out)
		}
		if got := m.read("etc/docker/daemon.json"); got != mine {
			t.Errorf("daemon.json is %q", got)
		}
	})
	t.Run("a drop-in that was edited, and another beside it", func(t *testing.T) {
		t.Parallel()
		m := newClientMachine(t, "docker.service")
		m.mustRun(script(address, "docker"))
		edited, beside := dropinOf("docker.service"), "etc/systemd/system/docker.service.d/10-mine.conf"
		mine := map[string]string{edited: m.read(edited) + "LimitNOFILE=65536\n", beside: "[Service]\nEnvironment=\"A=b\"\n"}
		for file, content := range mine {
			m.write(file, content, 0o600)
		}
		if out, err := m.run(script(address, "docker?no_proxy=.svc")); err == nil || !strings.Contains(out, "nothing is written over it") {
			t.Errorf("the script runs over the edited one: err = %v, %s", err, out)
		}
		if out := m.mustRun(script(address, "docker/undo")); !strings.Contains(out, "zz-container-registry-proxy.conf was changed since") {
			t.Errorf("undo: %s", out)
		}
		if out := m.mustRun(script(address, "docker/undo")); !strings.Contains(out, "nothing was changed") {
			t.Errorf("second undo: %s", out)
		}
		for file, content := range mine {
			if got := m.read(file); got != content {
				t.Errorf("%s is %q, want %q", file, got, content)
			}
		}
		if tree := m.tree(); m.read(anchor) != "" || strings.Contains(tree, "container-registry-proxy-setup") {
			t.Errorf("more than the user's own is left:\n%s", tree)
		}
	})
	t.Run("a proxy that moves", func(t *testing.T) {
		t.Parallel()
		m := newClientMachine(t, "docker.service")
		before := m.tree()
		m.mustRun(script(address, "docker"))
		m.takeCalls()
		other := serveScripts(t)
		m.mustRun(script(other, "docker?no_proxy=10.0.0.0/8"))
		m.wantCalls("another address and authority", "update-ca-certificates", "systemctl daemon-reload", "systemctl try-restart docker.service")
		wantEnvironment(t, m.read(dropinOf("docker.service")), map[string]string{"HTTPS_PROXY": "http://" + other + "/", "NO_PROXY": "10.0.0.0/8"})
		m.mustRun(script(other, "docker/undo"))
		if got := m.tree(); got != before {
			t.Errorf("after the undo there is\n%s\nbefore there was\n%s", got, before)
		}
	})
	t.Run("two clients trust one authority", func(t *testing.T) {
		t.Parallel()
		m := newClientMachine(t, "docker.service", "containerd.service")
		before := m.tree()
		for _, name := range []string{"docker", "containerd", "systemd", "docker/undo", "systemd/undo"} {
			m.mustRun(script(address, name))
		}
		if m.read(anchor) == "" || m.read(dropinOf("containerd.service")) == "" || m.read(dropinOf("docker.service")) != "" {
			t.Errorf("containerd is no longer set up, or docker still is:\n%s", m.tree())
		}
		m.mustRun(script(address, "containerd/undo"))
		if got := m.tree(); got != before {
			t.Errorf("after both undos there is\n%s\nbefore there was\n%s", got, before)
		}
	})
	t.Run("another mode", func(t *testing.T) {
		t.Parallel()
		m := newClientMachine(t, "docker.service")
		m.mustRun(script(address, "docker"))
		before := m.tree()
		if out, err := m.run(script(address, "docker?mode=mirror")); err == nil || !strings.Contains(out, "/setup/docker/undo") || m.tree() != before {
			t.Errorf("err = %v, %s; want a refusal that says how to go back", err, out)
		}
	})
	t.Run("a trust store that fails", func(t *testing.T) {
		t.Parallel()
		m := newClientMachine(t, "docker.service")
		m.write("tools/update-ca-certificates", "#!/bin/sh\nexit 1\n", 0o755)
		if out, err := m.run(script(address, "docker")); err == nil || m.read(anchor) != "" || m.read(dropinOf("docker.service")) != "" {
			t.Errorf("err = %v, %s; want a failure, and nothing that would pass for done", err, out)
		}
		m.write("tools/update-ca-certificates", "#!/bin/sh\necho update-ca-certificates >>/calls\n", 0o755)
		m.mustRun(script(address, "docker"))
		m.wantCalls("once it works", "update-ca-certificates", "systemctl daemon-reload", "systemctl try-restart docker.service")
	})
}

// Every distribution has its own place for authorities.
func TestTrustStores(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	certificate := newAuthority(t)
	address := serve(t, certificate)
	for _, tt := range []struct {
		name, place, tool, back string
	}{
		{"Debian, Ubuntu, Alpine", "local/share/ca-certificates", "update-ca-certificates", "update-ca-certificates --fresh"},
		{"Fedora, RHEL, CentOS", "etc/pki/ca-trust/source/anchors", "update-ca-trust", "update-ca-trust"},
		{"SUSE", "etc/pki/trust/anchors", "update-ca-certificates", "update-ca-certificates --fresh"},
		{"Arch", "etc/ca-certificates/trust-source/anchors", "update-ca-trust", "update-ca-trust"},
	} {
		for _, client := range []string{"docker", "systemd"} {
			t.Run(tt.name+" "+client, func(t *testing.T) {
				t.Parallel()
				m := newMachine(t, []string{tt.tool}, "docker.service")
				m.mkdir(tt.place)
				m.mkdir("var/lib")
				before := m.tree()
				m.mustRun(script(address, client))
				m.wantCalls("run", tt.tool, "systemctl daemon-reload", "systemctl try-restart docker.service")
				if got := m.read(filepath.Join(tt.place, "container_registry_proxy.crt")); got != string(certificate) {
					t.Errorf("the machine trusts %q, want the authority", got)
				}
				m.mustRun(script(address, client+"/undo"))
				m.wantCalls("undo", tt.back, "systemctl daemon-reload", "systemctl try-restart docker.service")
				if got := m.tree(); got != before {
					t.Errorf("after the undo there is\n%s\nbefore there was\n%s", got, before)
				}
			})
		}
	}
}

// Alpine has OpenRC, which reads a directory of settings for every service, and services ask whether they are meant.
func TestOpenRC(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	address := serveScripts(t)
	m := newMachine(t, []string{"update-ca-certificates"})
	if err := os.Remove(filepath.Join(m.root, "run/systemd/system")); err != nil {
		t.Fatal(err)
	}
	m.mkdir("etc/init.d")
	m.mkdir("var/lib")
	m.write("etc/init.d/docker", "#!/sbin/openrc-run\n", 0o755)
	m.write("tools/rc-service", "#!/bin/sh\necho \"rc-service $*\" >>/calls\n", 0o755)
	before := m.tree()
	m.mustRun(script(address, "docker?no_proxy=.svc"))
	m.wantCalls("set-up", "update-ca-certificates", "rc-service --ifstarted docker restart")
	m.mustRun(script(address, "docker?no_proxy=.svc"))
	m.wantCalls("second run")
	const read = `RC_SVCNAME=%s; . /etc/rc.conf.d/*docker.conf; env | grep _PROXY | sort | xargs echo told`
	if got, want := m.mustRun(fmt.Sprintf(read, "docker")), "told HTTPS_PROXY=http://"+address+"/ NO_PROXY=.svc"; got != want {
		t.Errorf("docker is told %q, want %q", got, want)
	}
	if got := m.mustRun(fmt.Sprintf(read, "sshd")); got != "told" {
		t.Errorf("another service is told %q", got)
	}
	m.mustRun(script(address, "docker/undo"))
	m.wantCalls("undo", "update-ca-certificates --fresh", "rc-service --ifstarted docker restart")
	if got := m.tree(); got != before {
		t.Errorf("after the undo there is\n%s\nbefore there was\n%s", got, before)
	}
}

// Containers are nodes: a stand-in for the engine enters the file system of one.
func TestKindNodes(t *testing.T) {
	t.Parallel()
	needSandbox(t)
	address := serveScripts(t)
	for _, query := range []string{"", "?mode=mirror"} {
		t.Run("kind"+query, func(t *testing.T) {
			t.Parallel()
			m := newClientMachine(t, "containerd.service")
			m.write("tools/kind", "#!/bin/sh\n[ \"$*\" = 'get nodes --name dev' ] && echo one && echo two\n", 0o755)
			m.write("tools/podman", "#!/bin/sh\necho \"podman $1 $2 $3 $4\" >>/calls\n[ \"$3\" = one ] || exec cat >/dev/null\nexec sh\n", 0o755)
			before := m.tree()
			line := fmt.Sprintf("curl -fsS 'http://%s/setup/kind%%s' | ENGINE=podman sh -s -- dev", address)
			m.mustRun(fmt.Sprintf(line, query))
			calls := m.takeCalls()
			if calls[0] != "podman exec -i one sh" || calls[len(calls)-1] != "podman exec -i two sh" || len(calls) < 4 {
				t.Errorf("the engine was told %q", calls)
			}
			m.mustRun(fmt.Sprintf(line, query))
			m.wantCalls("second run", "podman exec -i one sh", "podman exec -i two sh")
			m.mustRun(fmt.Sprintf(line, "/undo"))
			if got := m.tree(); got != before {
				t.Errorf("after the undo there is\n%s\nbefore there was\n%s", got, before)
			}
			if out, err := m.run(strings.ReplaceAll(fmt.Sprintf(line, query), "-- dev", "-- ops")); err == nil {
				t.Errorf("a cluster that is not there: %s", out)
			}
		})
	}
}
