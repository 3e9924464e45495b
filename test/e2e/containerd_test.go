package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

func TestContainerd(t *testing.T) {
	t.Parallel()
	need(t, "containerd", "ctr")
	scenario(t, func(t *testing.T, p *proxy) client {
		return &ctr{socket: startContainerd(t, p.clientEnv()), env: p.clientEnv()}
	})
}

// startContainerd starts a containerd of the test's own and returns its socket.
func startContainerd(t *testing.T, env []string) string {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "containerd.sock")
	config := writeFile(t, filepath.Join(dir, "config.toml"), fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket, filepath.Join(dir, "opt")))
	d := command{args: []string{"containerd", "--config", config}, env: env}.start(t)
	d.awaitReady(succeeds(command{args: []string{"ctr", "--address", socket, "version"}}, t))
	return socket
}

// ctr resolves and fetches by itself, into containerd's store.
type ctr struct {
	socket string
	env    []string
}

func (c *ctr) run(t *testing.T, args ...string) string {
	t.Helper()
	return command{args: append([]string{"ctr", "--address", c.socket, "--namespace", "e2e"}, args...), env: c.env}.run(t)
}

func (c *ctr) pull(t *testing.T, reference string) string {
	t.Helper()
	c.run(t, "images", "pull", reference)
	return c.digest(t, reference)
}

// digest is that of an image's manifest.
func (c *ctr) digest(t *testing.T, reference string) string {
	t.Helper()
	// "REF TYPE DIGEST SIZE PLATFORMS LABELS", below a line with these words.
	for line := range strings.Lines(c.run(t, "images", "list", "name=="+reference)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == reference {
			return fields[2]
		}
	}
	return "absent"
}

func (c *ctr) wipe(t *testing.T, reference string) {
	t.Helper()
	c.run(t, "images", "remove", "--sync", reference)
	if left := c.run(t, "content", "list", "--quiet"); left != "" {
		t.Fatalf("containerd still has %q", left)
	}
}

func (c *ctr) id(img registrytest.Image) string { return string(img.Digest) }
