package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// mirrorWorld is a proxy in front of two registries on the usual port, Docker Hub and another, for clients that know
// the proxy as a mirror: no authority to trust, no HTTPS_PROXY, and names that they cannot resolve.
func mirrorWorld(t *testing.T, env ...string) (p *proxy, hub, other origin) {
	t.Helper()
	world := registrytest.NewWorld(t)
	start := func(name, host, token, cdn string, seed uint64) origin {
		r := registrytest.New(t, registrytest.Config{
			World: world, Name: name, Port: 443, TokenName: token, TokenPort: 443, CDNName: cdn,
			Login: registrytest.Bearer, Faults: registrytest.Faults{Redirect: http.StatusTemporaryRedirect},
		})
		img := newImage(t, seed)
		r.Put(repository, tag, img)
		return origin{host: host, image: img, blobGETs: func() int { return r.Count("GET", "/blobs/") }}
	}
	hub = start("registry-1.docker.io", "docker.io", "auth.docker.io", "cdn.docker.test", 50)
	other = start("other.test", "other.test", "auth.other.test", "cdn.other.test", 60)
	env = append([]string{"REGISTRIES=docker.io other.test auth.other.test", "ALLOWED_NETWORKS=127.0.0.0/8"}, env...)
	return startProxy(t, world, env...), hub, other
}

func TestMirrorForContainerd(t *testing.T) {
	t.Parallel()
	need(t, "containerd", "ctr")
	p, hub, other := mirrorWorld(t)
	hosts := t.TempDir()
	writeFile(t, filepath.Join(hosts, "_default", "hosts.toml"), fmt.Sprintf(`[host."http://%s"]
  capabilities = ["pull", "resolve"]
`, p.address))
	c := &mirrorCtr{ctr: ctr{socket: startContainerd(t, way{}, noCRI), namespace: "e2e"}, hosts: hosts}
	pullTwice(t, c, p, hub)
	pullTwice(t, c, p, other)
}

// mirrorCtr finds its mirrors in a directory of hosts.toml files, as containerd does.
type mirrorCtr struct {
	ctr
	hosts string
}

func (c *mirrorCtr) pull(t *testing.T, reference string) string {
	t.Helper()
	c.run(t, "images", "pull", "--hosts-dir", c.hosts, reference)
	return c.digest(t, reference)
}

func TestMirrorForPodman(t *testing.T) {
	t.Parallel()
	need(t, "podman")
	p, hub, other := mirrorWorld(t)
	config := ""
	for _, o := range []origin{hub, other} {
		config += fmt.Sprintf("[[registry]]\nprefix = %[1]q\nlocation = %[1]q\n[[registry.mirror]]\nlocation = %[2]q\ninsecure = true\n", o.host, p.address+"/"+o.host)
	}
	dir := shortDir(t)
	c := &podman{
		dir: dir, policy: anyImage(t, dir),
		way: way{env: []string{"CONTAINERS_REGISTRIES_CONF=" + writeFile(t, filepath.Join(dir, "registries.conf"), config)}},
	}
	pullTwice(t, c, p, hub)
	pullTwice(t, c, p, other)
}

// dockerd knows mirrors of Docker Hub alone, and reaches other registries by path. It takes what is on loopback for
// registries that speak plain HTTP.
func TestMirrorForDockerd(t *testing.T) {
	t.Parallel()
	need(t, "dockerd", "docker", "containerd")
	p, hub, other := mirrorWorld(t)
	c := startDockerd(t, way{}, fmt.Sprintf(`{"registry-mirrors": ["http://%s"]}`, p.address))
	pullTwice(t, c, p, hub)
	byPath := &pathClient{client: c, prefix: p.address + "/"}
	pullTwice(t, byPath, p, other)
}

func TestPathForSkopeo(t *testing.T) {
	t.Parallel()
	need(t, "skopeo")
	p, hub, other := mirrorWorld(t)
	c := &pathClient{client: &skopeo{dir: t.TempDir(), flags: []string{"--src-tls-verify=false"}}, prefix: p.address + "/"}
	pullTwice(t, c, p, hub)
	pullTwice(t, c, p, other)
}

// pathClient asks the proxy for an image by its whole name.
type pathClient struct {
	client
	prefix string
}

func (c *pathClient) pull(t *testing.T, reference string) string {
	return c.client.pull(t, c.prefix+reference)
}

func (c *pathClient) wipe(t *testing.T, reference string) { c.client.wipe(t, c.prefix+reference) }
