package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// long skips a test that takes minutes, unless somebody has them.
func long(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("LONG") == "" {
		t.Skip("set LONG=1: " + why)
	}
}

// buildKit is a directory of all tests, with BuildKit's programs, which Debian 12 has no package of.
var buildKit = sync.OnceValues(func() (string, error) {
	programs, err := os.MkdirTemp("", "buildkit-")
	if err != nil {
		return "", err
	}
	out, err := goCommand("build", "-C", "../buildkit", "-trimpath", "-ldflags=-s -w", "-o", programs+"/",
		"github.com/moby/buildkit/cmd/buildctl", "github.com/moby/buildkit/cmd/buildkitd").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build BuildKit: %w\n%s", err, out)
	}
	return programs, nil
})

func TestSetUpBuildKit(t *testing.T) {
	t.Parallel()
	long(t, "building BuildKit takes minutes")
	setsUpBuildKit(t, startRoot)
}

// setsUpBuildKit has BuildKit's daemon, configured by the script, build upon images that it pulls.
func setsUpBuildKit(t *testing.T, machine makeMachine) {
	t.Helper()
	need(t, "runc")
	for _, path := range []string{"buildkit", "buildkit?mode=mirror"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			programs, err := buildKit()
			if err != nil {
				t.Fatal(err)
			}
			prepare := fmt.Sprintf(`cp %s/* usr/local/bin/
echo '[Service]' >lib/systemd/system/buildkit.service
mkdir -p var/lib/buildkit
mount -t tmpfs tmpfs var/lib/buildkit
`, programs)
			c := configured{path: path, prepare: prepare, told: restarted("buildkit.service"), clients: []func(*root) client{newBuildKit}}
			c.test(t, machine)
		})
	}
}

// buildkit builds an image upon another one, and adds a file to it.
type buildkit struct{ root *root }

func newBuildKit(r *root) client {
	d := r.start("buildkit.service", "buildkitd --oci-worker=true --containerd-worker=false --oci-worker-net=host")
	d.awaitReady(succeeds(r.command("buildctl debug workers"), r.t))
	return &buildkit{r}
}

// pull returns the digests of the layers that the image was built upon.
func (b *buildkit) pull(t *testing.T, reference string) string {
	t.Helper()
	b.root.run(fmt.Sprintf(`mkdir -p /run/context && cd /run/context && echo added >file
printf 'FROM %s\nCOPY file /added\nRUN ["/bin/hello"]\n' >Dockerfile
buildctl build --progress plain --frontend dockerfile.v0 --local context=. --local dockerfile=. --output type=oci,tar=false,dest=/run/built`, reference))
	var index struct{ Manifests []oci.Descriptor }
	b.read(t, "index.json", &index)
	if len(index.Manifests) != 1 {
		t.Fatalf("built %+v, want one manifest", index)
	}
	var manifest struct{ Layers []oci.Descriptor }
	b.read(t, blobPath(index.Manifests[0].Digest), &manifest)
	for _, layer := range manifest.Layers {
		if got := b.root.run("sha256sum </run/built/" + blobPath(layer.Digest)); !strings.HasPrefix("sha256:"+got, string(layer.Digest)+" ") {
			t.Errorf("layer %s has the digest %s", layer.Digest, got)
		}
	}
	return digests(manifest.Layers[:max(0, len(manifest.Layers)-built)])
}

// built is how many layers a build adds: that of COPY, and an empty one of RUN.
const built = 2

func (b *buildkit) read(t *testing.T, name string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(b.root.run("cat /run/built/"+name)), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func blobPath(digest oci.Digest) string {
	return "blobs/" + strings.Replace(string(digest), ":", "/", 1)
}

func digests(layers []oci.Descriptor) string {
	var all []string
	for _, layer := range layers {
		all = append(all, string(layer.Digest))
	}
	return strings.Join(all, " ")
}

func (b *buildkit) wipe(t *testing.T, _ string) {
	t.Helper()
	b.root.run("rm -rf /run/built && buildctl prune-histories && buildctl prune --all")
	poll(t, func() error { // its content is collected some time later
		if left := b.root.run("find /var/lib/buildkit -path '*/blobs/sha256/*'"); left != "" {
			return fmt.Errorf("buildkitd still has %s", left)
		}
		return nil
	}, func() string { return b.root.run("buildctl du") })
}

func (b *buildkit) id(img registrytest.Image) string { return digests(img.Layers) }
