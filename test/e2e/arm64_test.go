package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// emulator runs programs for arm64. It is static, so that it runs in the root directory of an image too.
const emulator = "qemu-aarch64-static"

// The image for arm64 does what an image is for: started as root it becomes nobody, says that it is well, caches what a
// client pulls, keeps it over a restart, and ends when it is told to.
func TestImageForARM64(t *testing.T) {
	t.Parallel()
	long(t, "it runs the program in an emulator")
	need(t, "make", "skopeo", "tar", emulator)
	world := registrytest.NewWorld(t)
	open := debianRegistry(t, world, "open.test", "", newImage(t, 130))
	registrytest.New(t, registrytest.Config{World: world, Name: "registry-1.docker.io", Port: 443}) // doctor asks it
	token, fake := tokenRegistry(t, world, "bearer.test", newImage(t, 140))
	c := newContainer(t, world, "arm64", "REGISTRIES="+open.host+" "+token.host+" "+fake.TokenHost(), "ALLOWED_NETWORKS=127.0.0.0/8",
		"AUTH_REGISTRIES_DELIMITER=;;;", "AUTH_REGISTRY_DELIMITER=|||", "AUTH_REGISTRIES="+token.host+"|||"+user+"|||"+password)
	if said := c.inside(c.image.Entrypoint[0], "version").run(t); !strings.Contains(said, "linux/arm64") {
		t.Errorf("the program says that it is %q", said)
	}
	if out, err := c.healthy(); err == nil {
		t.Errorf("it is well before it was started: %s", out)
	}
	c.start()
	if _, err := c.healthy(); err != nil {
		t.Error(err)
	}
	wantNobodyIn(t, fmt.Sprint(c.daemon.cmd.Process.Pid))
	s := &skopeo{dir: t.TempDir(), way: c.way()}
	pullTwice(t, s, c.proxy, open)
	pullTwice(t, s, c.proxy, token)
	c.wantWell()

	c.end()
	if out, err := c.healthy(); err == nil {
		t.Errorf("it is well after its end: %s", out)
	}
	c.start()
	asked := open.blobGETs()
	pullOnce(t, s, open)
	wantNoBlobs(t, c.proxy, open, asked, 0)
	c.end()
	c.inside(c.image.Entrypoint[0], "demo").run(t)
}

// container is an image of "make image" that runs without an engine: its program, in its root directory, as its
// configuration says. The program is for another architecture than this machine's, so an emulator runs it.
type container struct {
	*proxy // whose directory is the image's root directory
	image  imageConfig
}

// imageConfig is what an image says of how it is run.
type imageConfig struct {
	Env, Entrypoint, Cmd []string
	Healthcheck          struct{ Test []string }
}

func newContainer(t *testing.T, world *registrytest.World, arch string, settings ...string) *container {
	t.Helper()
	p := newProxy(t, world)
	p.dir = t.TempDir()
	c := &container{proxy: p, image: unpackImage(t, imageFile(t, "container-registry-proxy-image-"+arch+".tar"), p.dir)}
	p.env = slices.Concat(c.image.Env, []string{"LISTEN=" + p.address, "ADMIN_LISTEN=" + p.admin, "UPSTREAM_CA_FILE=/upstream.crt", "CACHE_MIN_FREE=1m"}, settings)
	for path, text := range map[string]string{"etc/hosts": world.HostsFile(), "upstream.crt": string(readFile(t, world.CAFile()))} {
		writeFile(t, filepath.Join(p.dir, path), text)
	}
	program, err := exec.LookPath(emulator)
	if err != nil {
		t.Fatal(err)
	}
	command{args: []string{"cp", program, filepath.Join(p.dir, emulator)}}.run(t)
	command{args: []string{"mkdir", filepath.Join(p.dir, "proc")}}.run(t)
	return c
}

// unpackImage unpacks the one image of a file into a directory.
func unpackImage(t *testing.T, file, dir string) imageConfig {
	t.Helper()
	layout := t.TempDir()
	command{args: []string{"tar", "-xf", file, "-C", layout}}.run(t)
	blob := func(d oci.Descriptor) string {
		return filepath.Join(layout, "blobs", d.Digest.Algorithm(), d.Digest.Hex())
	}
	parse := func(path string, into any) {
		t.Helper()
		if err := json.Unmarshal(readFile(t, path), into); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	var index struct{ Manifests []oci.Descriptor }
	parse(filepath.Join(layout, "index.json"), &index)
	var manifest struct {
		Config oci.Descriptor
		Layers []oci.Descriptor
	}
	parse(blob(index.Manifests[0]), &manifest)
	for _, layer := range manifest.Layers {
		command{args: []string{"tar", "-xpzf", blob(layer), "-C", dir}}.run(t)
	}
	var configuration struct{ Config imageConfig }
	parse(blob(manifest.Config), &configuration)
	return configuration.Config
}

// inside is a command line of the image's program, as "docker exec" would run it.
func (c *container) inside(args ...string) command {
	enter := slices.Concat([]string{"env", "-i"}, c.env, []string{"/usr/sbin/chroot", c.dir, "/" + emulator})
	return command{args: append(enter, args...), mounts: []string{"mount -t proc proc " + c.dir + "/proc"}}
}

func (c *container) start() {
	c.t.Helper()
	c.daemon = c.inside(append(c.image.Entrypoint, c.image.Cmd...)...).start(c.t)
	c.awaitReady()
}

func (c *container) end() {
	c.t.Helper()
	c.daemon.stop()
	if code := c.daemon.exitCode(); code != 0 {
		c.t.Errorf("the proxy ended with %d after SIGTERM, want 0", code)
	}
}

// healthy runs the image's own health check.
func (c *container) healthy() (string, error) {
	return c.inside(c.image.Healthcheck.Test[1:]...).try(c.t) // behind CMD
}

// wantWell asks the doctor of the image, but not what it has to say of the daemons of this machine.
func (c *container) wantWell() {
	c.t.Helper()
	said, err := c.inside(c.image.Entrypoint[0], "doctor").try(c.t)
	said = fmt.Sprintf("\n%s%v", said, err)
	for _, check := range []string{"dns", "port", "clock", "certificate", "upstream", "rate limit", "disk"} {
		if !strings.Contains(said, "\nok    "+check+" ") {
			c.t.Errorf("the doctor does not find %s well:\n%s", check, said)
		}
	}
}
