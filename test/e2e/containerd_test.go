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
	scenario(t, func(t *testing.T, w way) client {
		return &ctr{way: w, socket: startContainerd(t, w, noCRI), namespace: "e2e"}
	})
}

// What a containerd is for besides being one: nothing, or a kubelet.
const (
	noCRI   = `disabled_plugins = ["io.containerd.grpc.v1.cri"]`
	withCRI = `[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_apparmor = true
`
)

// startContainerd starts a containerd of the test's own, with more configuration, and returns its socket.
func startContainerd(t *testing.T, w way, config string) string {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "containerd.sock")
	file := writeFile(t, filepath.Join(dir, "config.toml"), fmt.Sprintf(`version = 2
root = %q
state = %q
%s
[debug]
  level = "warn"
[grpc]
  address = %q
[plugins."io.containerd.internal.v1.opt"]
  path = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), config, socket, filepath.Join(dir, "opt")))
	d := command{args: []string{"containerd", "--config", file}, env: w.env, mounts: w.mounts}.start(t)
	d.awaitReady(succeeds(command{args: []string{"ctr", "--address", socket, "version"}}, t))
	return socket
}

// ctr resolves and fetches by itself, into containerd's store.
type ctr struct {
	way
	socket    string
	namespace string
}

func (c *ctr) command(args ...string) command {
	return command{args: append([]string{"ctr", "--address", c.socket, "--namespace", c.namespace}, args...), env: c.env, mounts: c.mounts}
}

func (c *ctr) run(t *testing.T, args ...string) string {
	t.Helper()
	return c.command(args...).run(t)
}

func (c *ctr) pull(t *testing.T, reference string) string {
	t.Helper()
	if err := c.try(t, reference); err != nil {
		t.Fatal(err)
	}
	return c.digest(t, reference)
}

func (c *ctr) try(t *testing.T, reference string) error {
	t.Helper()
	args := []string{"images", "pull"}
	if c.password != "" {
		args = append(args, "--user", user+":"+c.password)
	}
	_, err := c.command(append(args, reference)...).try(t)
	return err
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
