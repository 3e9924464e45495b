package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// bundleWorld is a proxy in front of a registry with an image, one for two platforms, and one of Docker's own types.
type bundleWorld struct {
	world    *registrytest.World
	registry *registrytest.Registry
	one      registrytest.Image
	many     registrytest.Index
	docker   oci.Digest
}

func newBundleWorld(t *testing.T) *bundleWorld {
	t.Helper()
	w := &bundleWorld{world: registrytest.NewWorld(t), one: newImage(t, 90)}
	w.registry = registrytest.New(t, registrytest.Config{
		World: w.world, Name: "other.test", Port: 443, TokenName: "auth.other.test", TokenPort: 443, CDNName: "cdn.other.test",
		Login: registrytest.Bearer, Faults: registrytest.Faults{Redirect: http.StatusTemporaryRedirect},
	})
	w.registry.Put("team/one", "1", w.one)
	w.many = w.registry.PushIndex("team/many", "1", []string{"amd64", "arm64"}, registrytest.Layer(91, 100<<10))
	const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	config, layer := w.one.Config, w.one.Layers[2]
	config.MediaType, layer.MediaType = "application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip"
	body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": dockerManifest, "config": config, "layers": []oci.Descriptor{layer}})
	if err != nil {
		t.Fatal(err)
	}
	w.registry.Put("team/docker", "", w.one)
	w.docker = w.registry.PutManifest("team/docker", "1", dockerManifest, body)
	return w
}

func (w *bundleWorld) proxy(t *testing.T) *proxy {
	return newProxy(t, w.world, "REGISTRIES=other.test auth.other.test", "ALLOWED_NETWORKS=127.0.0.0/8", "UPSTREAM_GIVE_UP=1s")
}

// export writes images into a bundle, all platforms of them.
func (p *proxy) export(t *testing.T, images ...string) string {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "bundle.tar")
	command{args: append([]string{program, "export", "--proxy", p.address, "--platform", "all", "--output", bundle}, images...)}.run(t)
	return bundle
}

// What export writes other tools read, under the image's whole reference: skopeo, and containerd.
func TestOthersReadAnExport(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "containerd", "ctr")
	w := newBundleWorld(t)
	byDigest := "other.test/team/one@" + string(w.one.Digest)
	p := w.proxy(t)
	p.start()
	bundle := p.export(t, "other.test/team/one:1", "other.test/team/many:1", byDigest)
	s := &skopeo{dir: t.TempDir()}
	for name, want := range map[string]oci.Digest{"other.test/team/one:1": w.one.Digest, "other.test/team/many:1": w.many.Digest, byDigest: w.one.Digest} {
		from := "oci-archive:" + bundle + ":" + name
		if got := s.command(t, "inspect", "--raw", from).run(t); oci.FromBytes([]byte(got)) != want {
			t.Errorf("skopeo inspect %s: %s", name, got)
		}
		if got := s.copy(t, from, "--all"); got != want {
			t.Errorf("skopeo copy of %s has the manifest %s, want %s", name, got, want)
		}
	}
	s.command(t, "copy", "oci-archive:"+bundle+":other.test/team/many:1", "docker-archive:"+filepath.Join(t.TempDir(), "docker.tar")).run(t)

	c := &ctr{socket: startContainerd(t, way{}, noCRI), namespace: "e2e"}
	c.run(t, "images", "import", "--all-platforms", bundle)
	if one, many := c.digest(t, "other.test/team/one:1"), c.digest(t, "other.test/team/many:1"); one != string(w.one.Digest) || many != string(w.many.Digest) {
		t.Errorf("containerd has %s and %s", one, many)
	}

	// Debian's skopeo looks among named images for OCI's own types alone. One of Docker's types that is alone needs no name.
	if got := s.copy(t, "oci-archive:"+p.export(t, "other.test/team/docker:1")); got != w.docker {
		t.Errorf("the copy of Docker's types has the manifest %s, want %s", got, w.docker)
	}
}

// What skopeo writes import reads, one image and one for two platforms: both are pulled while their registry is gone.
func TestImportOfWhatSkopeoWrites(t *testing.T) {
	t.Parallel()
	need(t, "skopeo")
	w := newBundleWorld(t)
	p, dir := w.proxy(t), t.TempDir()
	direct := &skopeo{dir: t.TempDir(), way: way{env: []string{"SSL_CERT_FILE=" + w.world.CAFile(), "SSL_CERT_DIR=/nonexistent"}, mounts: hostsMount(t, w.world)}}
	for file, name := range map[string]string{"one.tar": "other.test/team/one:1", "many.tar": "other.test/team/many:1"} {
		bundle := filepath.Join(dir, file)
		direct.command(t, "copy", "--all", "docker://"+name, "oci-archive:"+bundle+":"+name).run(t)
		if got := (command{args: []string{program, "import", bundle}, env: p.env}).run(t); !strings.Contains(got, name) {
			t.Errorf("import of %s says %q", name, got)
		}
	}
	w.registry.Set(func(f *registrytest.Faults) { f.Registry.Down, f.Token.Down, f.CDN.Down = true, true, true })
	w.registry.Forget()
	p.start()
	s := &skopeo{dir: t.TempDir(), way: p.way()}
	for name, want := range map[string]oci.Digest{"other.test/team/one:1": w.one.Digest, "other.test/team/many:1": w.many.Digest, "other.test/team/many@" + string(w.many.Digest): w.many.Digest} {
		if got := s.copy(t, "docker://"+name, "--all"); got != want {
			t.Errorf("the pull of %s has the manifest %s, want %s", name, got, want)
		}
	}
}

// crane reads and writes the layout as a directory.
func TestCraneAndBundles(t *testing.T) {
	t.Parallel()
	if os.Getenv("LONG") == "" {
		t.Skip("builds crane, for some seconds and more: LONG=1 runs it")
	}
	need(t, "tar")
	w := newBundleWorld(t)
	registrytest.New(t, registrytest.Config{World: w.world, Name: "copies.test", Port: 443})
	p, dir := w.proxy(t), t.TempDir()
	p.start()
	crane := filepath.Join(dir, "crane")
	if out, err := goCommand("build", "-C", "../crane", "-o", crane, "github.com/google/go-containerregistry/cmd/crane").CombinedOutput(); err != nil {
		t.Fatalf("build crane: %v\n%s", err, out)
	}
	for image, want := range map[string]oci.Digest{"many": w.many.Digest, "docker": w.docker} {
		name, copied := "other.test/team/"+image+":1", "copies.test/team/"+image+":1"
		layout, theirs := filepath.Join(dir, image), filepath.Join(dir, image+"-of-crane")
		script := `mkdir $2 && tar xf $1 -C $2 && $5 push $2 $3 >&2 && $5 pull --format=oci --annotate-ref $4 $6 >&2 && tar cf $6.tar -C $6 . && $5 digest $3`
		c := command{
			args: []string{"sh", "-c", script, "sh", p.export(t, name), layout, copied, name, crane, theirs},
			env:  []string{"SSL_CERT_FILE=" + w.world.CAFile(), "SSL_CERT_DIR=/nonexistent"}, mounts: hostsMount(t, w.world),
		}
		if got := c.run(t); got != string(want) {
			t.Errorf("crane has pushed %s, want %s", got, want)
		}
		other := w.proxy(t)
		if got := (command{args: []string{program, "import", theirs + ".tar"}, env: other.env}).run(t); !strings.Contains(got, name) {
			t.Errorf("import of %s says %q", name, got)
		}
	}
}
