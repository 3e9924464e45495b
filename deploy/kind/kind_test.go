package kind_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A stand-in for kind, and one for docker, whose containers are directories: what runs in one finds its /etc there.
const (
	fakeKind   = "#!/bin/sh\n[ \"$*\" = \"get nodes --name ${CLUSTER}\" ] && cat \"$NODES/list\"\n"
	fakeDocker = `#!/bin/sh
set -e
[ "$1" = exec ] && shift
[ "$1" != -i ] || shift
node=$1
shift
for word in "$@"; do
	set -- "$@" "$(printf %s "$word" | sed "s|/etc/|$NODES/$node/etc/|g")"
	shift
done
exec "$@"
`
)

func configure(t *testing.T, nodes string, environ []string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "./configure-nodes", args...)
	cmd.Env = append([]string{"PATH=" + filepath.Join(nodes, "bin") + ":" + os.Getenv("PATH"), "NODES=" + nodes}, environ...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func newCluster(t *testing.T, engine, list string) string {
	t.Helper()
	nodes := t.TempDir()
	for name, content := range map[string]string{
		"bin/kind": fakeKind, "bin/" + engine: fakeDocker, "list": list,
		"one/etc/containerd/config.toml": `config_path = "/etc/containerd/certs.d"`, "two/etc/containerd/config.toml": "version = 2",
	} {
		path := filepath.Join(nodes, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return nodes
}

func TestConfigureNodes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, engine, cluster string
		environ, args         []string
		proxy                 string
	}{
		{"defaults", "docker", "kind", nil, nil, "container-registry-proxy:3128"},
		{"another cluster, podman and a proxy elsewhere", "podman", "dev", []string{"ENGINE=podman", "PROXY=192.0.2.1:3128"}, []string{"dev"}, "192.0.2.1:3128"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			nodes := newCluster(t, tt.engine, "one\ntwo\n")
			for range 2 { // it may be run again
				out, err := configure(t, nodes, append(tt.environ, "CLUSTER="+tt.cluster), tt.args...)
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				if strings.Count(out, "does not look in") != 1 || !strings.Contains(out, "containerd of two does not look") {
					t.Errorf("node two needs cluster.yaml, and nobody else; printed:\n%s", out)
				}
				for _, node := range []string{"one", "two"} {
					got, err := os.ReadFile(filepath.Join(nodes, node, "etc/containerd/certs.d/_default/hosts.toml"))
					want := "[host.\"http://" + tt.proxy + "\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
					if err != nil || string(got) != want {
						t.Errorf("hosts.toml of node %s: %v, %q, want %q", node, err, got, want)
					}
				}
			}
		})
	}
}

func TestNoNodes(t *testing.T) {
	t.Parallel()
	out, err := configure(t, newCluster(t, "docker", ""), []string{"CLUSTER=kind"})
	if err == nil || !strings.Contains(out, "has no nodes") {
		t.Errorf("a cluster without nodes: %v: %s", err, out)
	}
}
