package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

func TestPodman(t *testing.T) {
	t.Parallel()
	need(t, "podman")
	scenario(t, func(t *testing.T, w way) client {
		dir := shortDir(t)
		return &podman{way: w, dir: dir, policy: anyImage(t, dir)}
	})
}

// shortDir is a directory of the test's own: podman takes no runroot of more than 50 characters.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// anyImage is a policy that wants no signatures.
func anyImage(t *testing.T, dir string) string {
	t.Helper()
	return writeFile(t, filepath.Join(dir, "policy.json"), `{"default":[{"type":"insecureAcceptAnything"}]}`)
}

// podman has a store of its own, on the overlay driver.
type podman struct {
	way
	dir    string
	policy string
}

func (p *podman) command(t *testing.T, args ...string) command {
	t.Helper()
	return command{
		args: append([]string{
			"podman", "--root", filepath.Join(p.dir, "root"), "--runroot", filepath.Join(p.dir, "run"), "--tmpdir", filepath.Join(p.dir, "tmp"),
			"--storage-driver", "overlay", "--events-backend", "none",
		}, args...),
		env:    p.env,
		mounts: append(containersMounts(t, p.dir), p.mounts...),
	}
}

func (p *podman) run(t *testing.T, args ...string) string {
	t.Helper()
	return p.command(t, args...).run(t)
}

func (p *podman) pull(t *testing.T, reference string) string {
	t.Helper()
	if err := p.try(t, reference); err != nil {
		t.Fatal(err)
	}
	return "sha256:" + p.run(t, "image", "inspect", "--format", "{{.Id}}", reference)
}

func (p *podman) try(t *testing.T, reference string) error {
	t.Helper()
	_, err := p.command(t, slices.Concat([]string{"pull", "--quiet", "--signature-policy", p.policy}, p.authfile("--authfile"), []string{reference})...).try(t)
	return err
}

func (p *podman) wipe(t *testing.T, reference string) {
	t.Helper()
	p.run(t, "rmi", "--force", reference)
	if left := p.run(t, "images", "--all", "--quiet"); left != "" {
		t.Fatalf("podman still has %q", left)
	}
}

func (p *podman) id(img registrytest.Image) string { return string(img.Config.Digest) }
