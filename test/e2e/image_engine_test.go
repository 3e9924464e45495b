package e2e

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// The images that "make image" makes, in a directory of all tests.
var images = sync.OnceValues(func() (string, error) {
	source, err := os.MkdirTemp("", "source-")
	if err != nil {
		return "", err
	}
	return filepath.Join(source, "bin"), makeImages("../..", source)
})

// makeImages copies what the program and its image are made of from one directory to another, and makes the images there.
func makeImages(from, to string) error {
	for _, dir := range []string{"cmd", "internal", "deploy"} {
		if err := os.CopyFS(filepath.Join(to, dir), os.DirFS(filepath.Join(from, dir))); err != nil {
			return err
		}
	}
	for _, file := range []string{"go.mod", "go.sum", "Makefile"} {
		text, err := os.ReadFile(filepath.Join(from, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, file), text, 0o644); err != nil {
			return err
		}
	}
	cmd := exec.Command("make", "-C", to, "image")
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make image: %w\n%s", err, out)
	}
	return nil
}

// imageFile is the path of one of the images.
func imageFile(t *testing.T, name string) string {
	t.Helper()
	dir, err := images()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

func TestImagesOfTwoBuildsAreTheSame(t *testing.T) {
	t.Parallel()
	need(t, "make")
	first := filepath.Dir(imageFile(t, ""))
	second := t.TempDir()
	if err := makeImages(first, second); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"container-registry-proxy-image.tar", "container-registry-proxy-image-amd64.tar", "container-registry-proxy-image-arm64.tar"} {
		if !bytes.Equal(readFile(t, imageFile(t, name)), readFile(t, filepath.Join(second, "bin", name))) {
			t.Errorf("%s of two builds in two directories differ", name)
		}
	}
}

// skopeo reads the layout as those do who push it to a registry of their own.
func TestImageHasBothPlatforms(t *testing.T) {
	t.Parallel()
	need(t, "make", "skopeo")
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		dir := t.TempDir()
		command{args: []string{"skopeo", "--insecure-policy", "--override-os=linux", "--override-arch=" + arch, "copy",
			"oci-archive:" + imageFile(t, "container-registry-proxy-image.tar"), "oci:" + dir + ":latest"}}.run(t)
		command{args: []string{"sh", "-c", "cd " + dir + ` && for blob in blobs/sha256/*; do tar -xzf $blob 2>/dev/null || :; done`}}.run(t)
		program, err := elf.Open(filepath.Join(dir, "usr/bin/container-registry-proxy"))
		if err != nil {
			t.Fatal(err)
		}
		defer program.Close()
		if program.Machine != machine {
			t.Errorf("program for %s is one for %v", arch, program.Machine)
		}
		if libraries, err := program.ImportedLibraries(); err != nil || len(libraries) > 0 {
			t.Errorf("program for %s needs %q, %v", arch, libraries, err)
		}
		if program.Section(".symtab") != nil {
			t.Errorf("program for %s has symbols", arch)
		}
		if roots := readFile(t, filepath.Join(dir, "etc/ssl/certs/ca-certificates.crt")); bytes.Count(roots, []byte("BEGIN CERTIFICATE")) < 50 {
			t.Errorf("only %d bytes of root certificates", len(roots))
		}
	}
}

// engine is a dockerd in a network of the test's own, with a containerd of its own.
type engine struct {
	docker
	network *network
}

// The networks of an engine's containers.
const (
	noBridge = "--bridge=none"
	bridge   = "--bip=" + gateway + "/24" // on the bridge that dockerd makes
	gateway  = "10.211.0.1"
)

func startEngine(t *testing.T, n *network, bridge string, env ...string) *engine {
	t.Helper()
	need(t, "dockerd", "docker", "containerd", "runc", "docker-proxy")
	dir := shortDir(t)
	e := &engine{docker: docker{socket: "unix://" + filepath.Join(dir, "docker.sock"), config: t.TempDir()}, network: n}
	d := command{args: n.enter("dockerd",
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--config-file", writeFile(t, filepath.Join(dir, "daemon.json"), "{}"),
		"--host", e.socket, "--iptables=false", "--ip6tables=false", bridge), env: env}.start(t)
	d.awaitReady(succeeds(e.command("version"), t))
	t.Cleanup(func() {
		// Before dockerd ends: it leaves behind what runs in a container longer than it waits.
		script := `for c in $(docker --host "$0" ps --all --quiet); do docker --host "$0" rm --force --volumes "$c"; done`
		if err := succeeds(command{args: []string{"sh", "-c", script, e.socket}}, t)(); err != nil {
			t.Errorf("remove the containers: %v", err)
		}
	})
	return e
}

// state is what "docker inspect" has of a container by a path in Go's template language.
func (e *engine) state(t *testing.T, container, path string) string {
	t.Helper()
	return e.run(t, "inspect", "--format", "{{"+path+"}}", container)
}

// awaitHealthy waits until the image's own check finds a container well.
func (e *engine) awaitHealthy(t *testing.T, container string) {
	t.Helper()
	poll(t, func() error {
		out, err := e.try(t, "inspect", "--format", "{{.State.Status}} {{.State.Health.Status}}", container)
		if err != nil || out != "running healthy" {
			return fmt.Errorf("%s: %v", out, err)
		}
		return nil
	}, func() string { out, _ := e.try(t, "logs", container); return out })
}

// try runs docker and returns what it printed, also if it fails.
func (e *engine) try(t *testing.T, args ...string) (string, error) {
	ctx := t.Context()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	out, err := e.command(args...).cmd(ctx, t).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// originOn starts Debian's docker-registry on the bridge of an engine.
func originOn(t *testing.T, e *engine, world *registrytest.World, name string, img registrytest.Image) origin {
	t.Helper()
	return originIn(t, e.network, gateway, world, name, img)
}

// originIn starts Debian's docker-registry at an address of a network, over TLS, under a name that only those know who are
// told, with an image.
func originIn(t *testing.T, n *network, address string, world *registrytest.World, name string, img registrytest.Image) origin {
	t.Helper()
	need(t, "docker-registry")
	dir := t.TempDir()
	crt, key := writePair(t, world, dir, name)
	config := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: %s}}
http: {addr: "%s:5000", tls: {certificate: %s, key: %s}}
`, filepath.Join(dir, "data"), address, crt, key)
	d := command{args: n.enter("docker-registry", "serve", writeFile(t, filepath.Join(dir, "config.yml"), config))}.start(t)
	o := origin{host: name + ":5000", image: img, blobGETs: func() int { return len(blobGET.FindAllString(d.text(), -1)) }}
	client := n.client(t, directly(world), map[string]string{name: address})
	d.awaitReady(answers(client, "https://"+o.host+"/v2/"))
	push(t, client, o, "")
	return o
}
