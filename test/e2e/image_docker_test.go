package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// The command lines of the originals' READMEs, to the letter.
var readmes = map[string]string{
	"gmarcy/container-registry-proxy:latest": `podman run --rm --name container_registry_proxy -it \
-p 0.0.0.0:3128:3128 -e ENABLE_MANIFEST_CACHE=true \
-v $(pwd)/registry_proxy_mirror_cache:/registry_proxy_mirror_cache \
-v $(pwd)/registry_proxy_mirror_certs:/ca \
gmarcy/container-registry-proxy:latest`,
	"rpardini/docker-registry-proxy:0.6.2": `docker run --rm --name docker_registry_proxy -it \
       -p 0.0.0.0:3128:3128 -e ENABLE_MANIFEST_CACHE=true \
       -v $(pwd)/docker_mirror_cache:/docker_mirror_cache \
       -v $(pwd)/docker_mirror_certs:/ca \
       rpardini/docker-registry-proxy:0.6.2`,
}

const packed = "container-registry-proxy:latest" // as "make image" calls the image

// needed are the capabilities with which the image can be started as root. Nothing else is left of root's.
var needed = []string{"--cap-drop=ALL", "--cap-add=CHOWN", "--cap-add=DAC_OVERRIDE", "--cap-add=SETGID", "--cap-add=SETUID"}

// One dockerd runs the image in every way that people do, and another one pulls through it.
func TestImageUnderDockerd(t *testing.T) {
	t.Parallel()
	need(t, "make", "script", "openssl")
	n := newNetwork(t)
	e := startEngine(t, n, bridge)
	e.run(t, "load", "--input", imageFile(t, "container-registry-proxy-image-"+runtime.GOARCH+".tar"))
	for image, line := range readmes {
		t.Run(image, func(t *testing.T) { runsAsInTheReadme(t, e, image, line) })
	}
	t.Run("another dockerd", func(t *testing.T) { servesAnotherDockerd(t, e) })
	t.Run("as another user", func(t *testing.T) { runsAsAnotherUser(t, e) })
	t.Run("with an authority of nginx", func(t *testing.T) { adoptsAnAuthority(t, e) })
}

// Only the image's name is another. The engine is dockerd for both: podman is not, but takes the same words.
func runsAsInTheReadme(t *testing.T, e *engine, image, line string) {
	dir := t.TempDir()
	line = strings.Replace(line, image, packed, 1)
	line = "docker" + strings.TrimPrefix(strings.TrimPrefix(line, "podman"), "docker")
	name := strings.Fields(line)[4]
	terminal := command{
		args: []string{"sh", "-c", "cd " + dir + ` && exec script --quiet --return --command "$0" /dev/null`, line},
		env:  []string{"DOCKER_HOST=" + e.socket, "DOCKER_CONFIG=" + e.config, "SHELL=/bin/sh"},
	}.start(t)
	terminal.awaitReady(func() error { _, err := e.try(t, "inspect", name); return err })
	e.awaitHealthy(t, name)

	certificate := get(t, e.network.client(t, &http.Transport{}, nil), "http://127.0.0.1:3128/ca.crt")
	files, err := filepath.Glob(filepath.Join(dir, "*_certs", "ca.crt"))
	if err != nil || len(files) != 1 || string(readFile(t, files[0])) != certificate {
		t.Errorf("the certificate that is served is not the volume's: %q, %v", files, err)
	}
	kept, err := filepath.Glob(filepath.Join(dir, "*_cache", "VERSION"))
	if err != nil || len(kept) != 1 {
		t.Errorf("the cache is not in its volume: %q, %v", kept, err)
	}
	wantNobody(t, e, name)
	e.run(t, "stop", name)
	if code := terminal.exitCode(); code != 0 {
		t.Errorf("docker run ended with %d after docker stop, want 0:\n%s", code, terminal.text())
	}
}

// wantNobody checks that a container's program is nobody in particular, and may do nothing in particular.
func wantNobody(t *testing.T, e *engine, container string) {
	t.Helper()
	wantNobodyIn(t, e.state(t, container, ".State.Pid"))
}

// wantNobodyIn checks the same of a process.
func wantNobodyIn(t *testing.T, pid string) {
	t.Helper()
	status := string(readFile(t, "/proc/"+pid+"/status"))
	for line := range strings.Lines(status) {
		fields := strings.Fields(line)
		want := map[string]string{
			"Uid:": "65532 65532 65532 65532", "Gid:": "65532 65532 65532 65532", "Groups:": "65532",
			"CapEff:": "0000000000000000", "CapPrm:": "0000000000000000", "CapAmb:": "0000000000000000",
		}[fields[0]]
		if got := strings.Join(fields[1:], " "); want != "" && got != want && got != "" {
			t.Errorf("%s is %s, want %s", fields[0], got, want)
		}
	}
}

// servesAnotherDockerd pulls through a container on a read-only root, then through the same one started again, then through
// a new one with the same volumes.
func servesAnotherDockerd(t *testing.T, e *engine) {
	world := registrytest.NewWorld(t)
	o := originOn(t, e, world, "registry.test", newImage(t, 110))
	dir := t.TempDir()
	authority := filepath.Join(dir, "ca", "ca.crt")
	run := func(name string) {
		args := []string{"run", "--detach", "--name", name, "-p", "0.0.0.0:3128:3128", "-e", "ENABLE_MANIFEST_CACHE=true",
			"-v", dir + "/cache:/registry_proxy_mirror_cache", "-v", dir + "/ca:/ca",
			"-e", "REGISTRIES=" + o.host, "--add-host", "registry.test:" + gateway,
			"-v", world.CAFile() + ":/upstream.crt:ro", "-e", "UPSTREAM_CA_FILE=/upstream.crt", "-e", "CACHE_MIN_FREE=1m",
			"--read-only"}
		e.run(t, append(append(args, needed...), packed)...)
		e.awaitHealthy(t, name)
		wantNobody(t, e, name)
	}
	run("first")
	trusted := readFile(t, authority)
	proxy := "http://" + nearEnd + ":3128"
	client := startEngine(t, e.network.neighbour(t), noBridge, "HTTPS_PROXY="+proxy, "HTTP_PROXY="+proxy, "SSL_CERT_FILE="+authority, "SSL_CERT_DIR=/nonexistent")
	pull := func(when string, want bool) {
		t.Helper()
		asked := o.blobGETs()
		pullOnce(t, client, o)
		if got := o.blobGETs() - asked; (got > 0) != want {
			t.Errorf("%s: the registry saw %d GETs of blobs", when, got)
		}
		client.wipe(t, o.reference())
	}
	pull("cold", true)
	pull("warm", false)
	e.run(t, "restart", "first")
	e.awaitHealthy(t, "first")
	pull("after a restart", false)
	e.run(t, "stop", "first")
	if code := e.state(t, "first", ".State.ExitCode"); code != "0" {
		t.Errorf("docker stop ended the program with %s, want 0", code)
	}
	e.run(t, "rm", "first")
	run("second")
	pull("in a new container", false)
	if string(readFile(t, authority)) != string(trusted) {
		t.Error("the authority is another one")
	}
	e.run(t, "rm", "--force", "second")
}

// Who starts it as another user gets no help of root's, and is told what would help.
func runsAsAnotherUser(t *testing.T, e *engine) {
	dir := t.TempDir()
	for _, sub := range []string{"ca", "cache", "own"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(dir, "own"), 1000, 0); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ ca, want string }{
		{"ca", "chown -R 1000:0 /ca"},
		{"own", "chown -R 1000:0 /registry_proxy_mirror_cache"},
	} {
		out, err := e.try(t, "run", "--rm", "-u", "1000", "-v", dir+"/cache:/registry_proxy_mirror_cache", "-v", filepath.Join(dir, tt.ca)+":/ca", packed)
		if err == nil || !strings.Contains(out, tt.want) {
			t.Errorf("with directories of root: %v, want %q:\n%s", err, tt.want, out)
		}
	}
	// The image's own directories are that user's.
	e.run(t, "run", "--detach", "--name", "nobody", "-u", "65532:65532", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", packed)
	e.awaitHealthy(t, "nobody")
	wantNobody(t, e, "nobody")
	e.run(t, "rm", "--force", "--volumes", "nobody")
}

// The authority of an nginx original is encrypted with a passphrase that is in its source. Clients that trust it need not
// trust another.
func adoptsAnAuthority(t *testing.T, e *engine) {
	world := registrytest.NewWorld(t)
	o := originOn(t, e, world, "other.test", newImage(t, 120))
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca")
	writeFile(t, filepath.Join(ca, "openssl.cnf"), "[req]\ndistinguished_name = dn\n[dn]\n[x]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical, digitalSignature, cRLSign, keyCertSign\nsubjectKeyIdentifier = hash\n")
	command{args: []string{"sh", "-c", "cd " + ca + ` &&
openssl genrsa -des3 -passout pass:foobar -out ca.key 4096 &&
openssl req -new -x509 -days 1300 -sha256 -key ca.key -out ca.crt -passin pass:foobar -subj "/CN=DockerMirrorBox CA Root" -config openssl.cnf -extensions x &&
echo 01 > ca.srl && rm openssl.cnf`}}.run(t)
	before := string(readFile(t, filepath.Join(ca, "ca.crt")))
	e.run(t, append(append([]string{"run", "--detach", "--name", "adopted", "-p", "0.0.0.0:3128:3128",
		"-v", ca + ":/ca", "-e", "REGISTRIES=" + o.host, "--add-host", "other.test:" + gateway,
		"-v", world.CAFile() + ":/upstream.crt:ro", "-e", "UPSTREAM_CA_FILE=/upstream.crt", "-e", "CACHE_MIN_FREE=1m"}, needed...), packed)...)
	e.awaitHealthy(t, "adopted")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(before))
	through := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:3128"}), TLSClientConfig: &tls.Config{RootCAs: roots}}
	layer := o.image.Layers[0]
	got := get(t, e.network.client(t, through, nil), "https://"+o.host+"/v2/"+repository+"/blobs/"+string(layer.Digest))
	if got != string(o.image.Blobs[layer.Digest]) {
		t.Errorf("%d bytes through the adopted authority are not the layer", len(got))
	}
	if after := get(t, e.network.client(t, &http.Transport{}, nil), "http://127.0.0.1:3128/ca.crt"); after != before {
		t.Errorf("/ca.crt is not the adopted certificate:\n%s", after)
	}
	e.run(t, "rm", "--force", "--volumes", "adopted")
}

// directly is for clients that ask a world's hosts past the proxy.
func directly(world *registrytest.World) *http.Transport {
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: world.Pool()}}
}

// get returns the body of a page that is there.
func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v: %s", url, resp.Status, err, body)
	}
	return string(body)
}

// poll tries until it succeeds, and ends the test with what explains the failure if that takes too long.
func poll(t *testing.T, try func() error, explain func() string) {
	t.Helper()
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(100 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(errors.Join(err, fmt.Errorf("after %s:\n%s", startTimeout, tail(explain(), 40))))
		}
	}
}
