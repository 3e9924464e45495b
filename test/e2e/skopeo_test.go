package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

func TestSkopeo(t *testing.T) {
	t.Parallel()
	need(t, "skopeo")
	scenario(t, func(t *testing.T, w way) client {
		return &skopeo{way: w, dir: t.TempDir(), flags: w.authfile("--src-authfile")}
	})
}

// skopeo copies an image into a directory.
type skopeo struct {
	way
	dir   string
	flags []string // of its copy command
}

func (s *skopeo) command(t *testing.T, args ...string) command {
	t.Helper()
	return command{
		args:   append([]string{"skopeo", "--insecure-policy"}, args...),
		env:    s.env,
		mounts: append(containersMounts(t, s.dir), s.mounts...),
	}
}

// copyFrom is the command that copies an image from anywhere.
func (s *skopeo) copyFrom(t *testing.T, from string, flags ...string) command {
	t.Helper()
	return s.command(t, slices.Concat([]string{"copy"}, s.flags, flags, []string{from, "dir:" + filepath.Join(s.dir, "image")})...)
}

// copy returns the digest of the manifest of what it has copied, of which skopeo checks the rest.
func (s *skopeo) copy(t *testing.T, from string, flags ...string) oci.Digest {
	t.Helper()
	s.copyFrom(t, from, flags...).run(t)
	return oci.FromBytes(readFile(t, filepath.Join(s.dir, "image", "manifest.json")))
}

func (s *skopeo) pull(t *testing.T, reference string) string {
	t.Helper()
	return string(s.copy(t, "docker://"+reference))
}

func (s *skopeo) try(t *testing.T, reference string) error {
	t.Helper()
	_, err := s.copyFrom(t, "docker://"+reference).try(t)
	return err
}

func (s *skopeo) wipe(t *testing.T, _ string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(s.dir, "image")); err != nil {
		t.Fatal(err)
	}
}

func (s *skopeo) id(img registrytest.Image) string { return string(img.Digest) }

// containersMounts keep what podman and skopeo have in a fixed place in a directory of the test's, which is empty at first.
func containersMounts(t *testing.T, dir string) []string {
	t.Helper()
	state := filepath.Join(dir, "state")
	if err := os.MkdirAll(state, 0o755); err != nil {
		t.Fatal(err)
	}
	return []string{"mkdir -p /var/lib/containers", "mount --bind " + state + " /var/lib/containers"}
}

// A pull past the proxy has to fail, or the other tests show nothing.
func TestNoClientGetsPastTheProxy(t *testing.T) {
	t.Parallel()
	need(t, "skopeo")
	world := registrytest.NewWorld(t)
	o := debianRegistry(t, world, "open.test", "", newImage(t, 40))
	c := command{args: []string{"skopeo", "--insecure-policy", "inspect", "--raw", "docker://" + o.reference()}, mounts: containersMounts(t, t.TempDir())}
	if err := succeeds(c, t)(); err == nil || !strings.Contains(err.Error(), "open.test") {
		t.Errorf("skopeo without a proxy: %v, want an error that names the host", err)
	}
}
