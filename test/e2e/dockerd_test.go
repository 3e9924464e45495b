package e2e

import (
	"path/filepath"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

func TestDockerd(t *testing.T) {
	t.Parallel()
	need(t, "dockerd", "docker", "containerd")
	scenario(t, func(t *testing.T, w way) client { return startDockerd(t, w, "{}") })
}

// startDockerd starts a dockerd of the test's own, and a containerd for it.
func startDockerd(t *testing.T, w way, config string) *docker {
	t.Helper()
	containerd := startContainerd(t, way{}, noCRI)
	dir := t.TempDir()
	socket := "unix://" + filepath.Join(dir, "docker.sock")
	d := command{
		args: []string{
			"dockerd", "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
			"--config-file", writeFile(t, filepath.Join(dir, "daemon.json"), config),
			"--host", socket, "--containerd", containerd, "--iptables=false", "--ip6tables=false", "--bridge=none",
		},
		env: w.env, mounts: w.mounts,
	}.start(t)
	c := &docker{socket: socket, config: t.TempDir()}
	if w.logins != "" {
		c.config = filepath.Dir(w.logins)
	}
	d.awaitReady(succeeds(c.command("version"), t))
	return c
}

// docker speaks to a dockerd, which does the work: nothing of the proxy is set here.
type docker struct {
	socket string
	config string // directory
}

func (d *docker) command(args ...string) command {
	return command{args: append([]string{"docker", "--host", d.socket, "--config", d.config}, args...)}
}

func (d *docker) run(t *testing.T, args ...string) string {
	t.Helper()
	return d.command(args...).run(t)
}

func (d *docker) pull(t *testing.T, reference string) string {
	t.Helper()
	if err := d.try(t, reference); err != nil {
		t.Fatal(err)
	}
	return d.run(t, "image", "inspect", "--format", "{{.Id}}", reference)
}

func (d *docker) try(t *testing.T, reference string) error {
	t.Helper()
	_, err := d.command("pull", "--quiet", reference).try(t)
	return err
}

func (d *docker) wipe(t *testing.T, reference string) {
	t.Helper()
	d.run(t, "rmi", "--force", reference)
	if left := d.run(t, "images", "--all", "--quiet"); left != "" {
		t.Fatalf("docker still has %q", left)
	}
}

func (d *docker) id(img registrytest.Image) string { return string(img.Config.Digest) }
