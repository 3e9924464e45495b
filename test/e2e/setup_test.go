package e2e

import (
	"fmt"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// configured is what one script does for one client: it is all that the client knows of the proxy.
type configured struct {
	path string // of the script, below /setup/
	// prepare are commands that make the machine what it was before.
	prepare string
	// env is more of the proxy's settings.
	env []string
	// told is what systemctl was told.
	told string
	// clients are what starts them, once the script has run.
	clients []func(r *root) client
	// file is what the script makes for a client that cannot be had here, and text all that is in it.
	file, text string
	// hubOnly is for clients that can have a mirror of Docker Hub alone.
	hubOnly bool
}

// restarted is what systemctl is told for it.
func restarted(unit string) string {
	return "systemctl daemon-reload\nsystemctl try-restart " + unit
}

// Every client, in each mode that it knows, configured by the script that the proxy serves for it and by nothing else, on
// a machine of its own: the script runs twice and changes nothing the second time, then the client pulls, then all is
// undone.
func TestSetUpByScripts(t *testing.T) {
	t.Parallel()
	need(t, "dockerd", "docker", "containerd", "ctr", "podman", "skopeo")
	for _, c := range everyScript() {
		t.Run(c.path, func(t *testing.T) {
			t.Parallel()
			c.test(t, startRoot)
		})
	}
}

// The same where the proxy is reached over TLS alone: clients are told so, and check its certificate.
func TestSetUpByScriptsOverTLS(t *testing.T) {
	t.Parallel()
	long(t, "it does again what TestSetUpByScripts does")
	need(t, "dockerd", "docker", "containerd", "ctr", "podman", "skopeo")
	for _, c := range everyScript() {
		t.Run(c.path, func(t *testing.T) {
			t.Parallel()
			c.env = []string{"SETUP_ADDRESS=https://" + proxyAddress}
			c.test(t, startRoot)
		})
	}
}

func everyScript() []configured {
	return []configured{
		{path: "docker", told: restarted("docker.service"), clients: []func(*root) client{newDockerd}},
		{path: "docker?mode=mirror", told: "systemctl try-reload-or-restart docker.service", clients: []func(*root) client{newDockerd}, hubOnly: true},
		{path: "containerd", told: restarted("containerd.service"), clients: []func(*root) client{newCRI}},
		{path: "containerd?mode=mirror", prepare: "rm -f etc/containerd/config.toml\n", told: restarted("containerd.service"), clients: []func(*root) client{newCRI}},
		{path: "podman", clients: []func(*root) client{newPodman}},
		{path: "podman?mode=mirror", clients: []func(*root) client{newPodman, newSkopeo}}, // both read the same files
	}
}

// makeMachine makes a machine with a proxy in its network, as startRoot does.
type makeMachine func(t *testing.T, p *proxy, prepare string) *root

// test has the script run on a machine, the clients pull, and all undone.
func (c configured) test(t *testing.T, machine makeMachine) {
	t.Helper()
	p, hub, other := mirrorWorld(t, c.env...)
	r := machine(t, p, c.prepare)
	before := r.tree()
	line := fmt.Sprintf("curl -fsS 'http://%s/setup/%s' | sh", proxyAddress, c.path)
	r.run(line)
	if got := r.calls(); got != c.told {
		t.Errorf("systemctl was told\n%s\nwant\n%s", got, c.told)
	}
	if c.file != "" {
		if got := r.run("cat " + c.file); got != strings.TrimSpace(c.text) {
			t.Errorf("%s is\n%s\nwant\n%s", c.file, got, c.text)
		}
	}
	after := r.tree()
	r.run(line)
	r.wantTree("after the second run", after)
	if got := r.calls(); got != "" {
		t.Errorf("the second run told systemctl %q", got)
	}
	for i, start := range c.clients {
		client := start(r)
		if i > 0 { // all is in the cache by now
			pullOnce(t, client, other)
			continue
		}
		pullTwice(t, client, p, hub)
		if c.hubOnly {
			client = &pathClient{client: client, prefix: proxyAddress + "/"}
		}
		pullTwice(t, client, p, other)
	}
	name, _, _ := strings.Cut(c.path, "?")
	r.run(fmt.Sprintf("curl -fsS 'http://%s/setup/%s/undo' | sh", proxyAddress, name))
	r.wantTree("after the undo", before)
}

// shellClient is a client that runs on a machine, by lines of shell in which IMAGE is what to pull.
type shellClient struct {
	root         *root
	get, empty   string // get prints what the client calls the image in its last line
	byManifest   bool
	containerd   string // socket, where it is asked itself to pull
	environ      []string
	alsoIsAbsent string // prints nothing if the store is empty
}

func (c *shellClient) line(line, reference string) string {
	return strings.ReplaceAll(line, "IMAGE", reference)
}

func (c *shellClient) pull(t *testing.T, reference string) string {
	t.Helper()
	if c.containerd != "" {
		id, err := pullImage(t, c.containerd, reference, "")
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	out := c.root.command(c.line(c.get, reference), c.environ...).run(t)
	return out[strings.LastIndex(out, "\n")+1:]
}

func (c *shellClient) wipe(t *testing.T, reference string) {
	t.Helper()
	c.root.run(c.line(c.empty, reference))
	if left := c.root.run(c.alsoIsAbsent); left != "" {
		t.Fatalf("the client still has %q", left)
	}
}

func (c *shellClient) id(img registrytest.Image) string {
	if c.byManifest {
		return string(img.Digest)
	}
	return string(img.Config.Digest)
}

func newDockerd(r *root) client {
	const docker = "docker --host unix:///run/docker.sock "
	d := r.start("docker.service", "dockerd --host unix:///run/docker.sock --iptables=false --ip6tables=false --bridge=none")
	d.awaitReady(succeeds(r.command(docker+"version"), r.t))
	return &shellClient{
		root: r, get: docker + "pull --quiet IMAGE && " + docker + "image inspect --format '{{.Id}}' IMAGE",
		empty: docker + "rmi --force IMAGE", alsoIsAbsent: docker + "images --all --quiet",
	}
}

func newCRI(r *root) client { return newContainerd(r, r.environment("containerd.service")) }

func newContainerd(r *root, environ []string) client {
	const ctr = "ctr --namespace k8s.io "
	d := r.command("exec containerd --log-level warn", environ...).start(r.t)
	d.awaitReady(succeeds(r.command("ctr version"), r.t))
	return &shellClient{
		root: r, containerd: r.path("run/containerd/containerd.sock"),
		empty: ctr + "images remove --sync $(" + ctr + "images list --quiet)", alsoIsAbsent: ctr + "content list --quiet",
	}
}

func newPodman(r *root) client {
	const podman = "podman --root /run/p/root --runroot /run/p/run --tmpdir /run/p/tmp --storage-driver overlay --events-backend none "
	r.run(`echo '{"default":[{"type":"insecureAcceptAnything"}]}' >/run/policy.json`)
	return &shellClient{
		root: r, get: podman + "pull --quiet --signature-policy /run/policy.json IMAGE && echo sha256:$(" + podman + "image inspect --format '{{.Id}}' IMAGE)",
		empty: podman + "rmi --force IMAGE", alsoIsAbsent: podman + "images --all --quiet",
	}
}

func newSkopeo(r *root) client {
	return &shellClient{
		root: r, byManifest: true, get: "skopeo --insecure-policy copy docker://IMAGE dir:/run/image && echo sha256:$(sha256sum </run/image/manifest.json | cut -d' ' -f1)",
		empty: "rm -rf /run/image", alsoIsAbsent: "ls /run/image 2>/dev/null || :",
	}
}
