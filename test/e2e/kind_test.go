package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// cluster is the nodes of Kind on a machine: containers made from the machine itself by an engine that runs on it, with
// containerd inside. A stand-in for kind lists them.
type cluster struct {
	machine           *root
	engine, proxyName string
}

// nodeNames are the containers.
var nodeNames = []string{"kind-control-plane", "kind-worker"}

const kindStandIn = `printf '#!/bin/sh\n[ "$*" = "get nodes --name kind" ] && echo kind-control-plane && echo kind-worker\n' >usr/local/sbin/kind
chmod 755 usr/local/sbin/kind
`

// nodeImage makes the image of a node of all that is on the machine but engines and what nobody reads. ENGINE is filled in.
const nodeImage = `cd / && tar -c --one-file-system --exclude=./usr/bin/docker* --exclude=./usr/sbin/docker* --exclude=./usr/bin/podman \
	--exclude=./usr/bin/skopeo --exclude=./usr/lib/systemd/system/docker.service --exclude=./usr/lib/systemd/system/podman.service \
	--exclude=./usr/share/doc --exclude=./usr/share/locale --exclude=./usr/share/man --exclude=./var/cache . | ENGINE import - node`

// prepareNode makes it a node's: systemd runs there, and containerd looks for mirrors since Kind 0.27.
const prepareNode = `mkdir -p /run/systemd/system && cat >/etc/containerd/config.toml <<'END'
version = 2
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "/etc/containerd/certs.d"
END`

// run runs a command line on the cluster's machine.
func (c cluster) run(t *testing.T, line string) string {
	t.Helper()
	return c.machine.command(line).run(t)
}

// start makes the nodes anew. They share the machine's network, where the proxy has its name, and its process numbers, so
// that the test finds them; they are gone after it.
func (c cluster) start(t *testing.T) []*root {
	t.Helper()
	var nodes []*root
	for _, name := range nodeNames {
		// An engine raises limits by itself as far as root of a whole machine may.
		c.run(t, fmt.Sprintf("%s run --detach --name %s --network host --pid host --add-host %s:192.168.66.72 --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --tmpfs /var/lib/containerd node sleep infinity",
			c.engine, name, c.proxyName))
		t.Cleanup(func() {
			if err := succeeds(c.machine.command(c.engine+" rm --force "+name), t)(); err != nil {
				t.Errorf("remove %s: %v", name, err)
			}
		})
		node := &root{t: t}
		if _, err := fmt.Sscan(c.run(t, c.engine+" inspect --format {{.State.Pid}} "+name), &node.pid); err != nil {
			t.Fatal(err)
		}
		node.run(prepareNode)
		nodes = append(nodes, node)
	}
	return nodes
}

// runsOnNodes has the snippet of an original, /setup/kind in its modes and our own script configure the nodes of a cluster,
// which pull; then all is undone.
func runsOnNodes(t *testing.T, machine makeMachine, engine string) {
	p, hub, other := mirrorWorld(t)
	snippet, proxyName := readmeKindFor(engine)
	c := cluster{machine: machine(t, p, kindStandIn), engine: engine, proxyName: proxyName}
	if engine == "docker" {
		newDockerd(c.machine)
	}
	c.run(t, strings.ReplaceAll(nodeImage, "ENGINE", engine))
	configure, err := os.ReadFile("../../deploy/kind/configure-nodes")
	if err != nil {
		t.Fatal(err)
	}
	script := func(path string) string {
		return fmt.Sprintf("curl -fsS 'http://%s/setup/%s' | ENGINE=%s sh", proxyAddress, path, engine)
	}
	undoOfSnippet := fmt.Sprintf("for node in $(kind get nodes --name kind); do curl -fsS 'http://%s/setup/systemd/undo' | %s exec -i $node sh; done", proxyAddress, engine)
	for _, tt := range []struct {
		name, line, undo string
		check            func(*testing.T, *root)
	}{
		{"the snippet of the README", snippet, undoOfSnippet, func(t *testing.T, node *root) { wantKindNode(t, node, proxyName) }},
		{"setup/kind", script("kind"), script("kind/undo"), nil},
		{"setup/kind?mode=mirror", script("kind?mode=mirror"), script("kind/undo"), nil},
		{"configure-nodes", "ENGINE=" + engine + " PROXY=" + proxyName + ":3128\n" + string(configure), "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nodes := c.start(t)
			before := trees(nodes)
			c.run(t, tt.line)
			if tt.check != nil {
				for _, node := range nodes {
					tt.check(t, node)
				}
			}
			after := trees(nodes)
			c.run(t, tt.line)
			for i, node := range nodes {
				node.wantTree("after the second run", after[i])
				containerd := newCRI(node)
				for _, o := range []origin{hub, other} {
					if tt.check != nil && i == 0 { // nobody has pulled yet
						pullTwice(t, containerd, p, o)
					} else {
						pullAgain(t, containerd, p, o)
					}
				}
			}
			if tt.undo == "" {
				return
			}
			c.run(t, tt.undo)
			for i, node := range nodes {
				node.wantTree("after the undo", before[i])
			}
		})
	}
}

func trees(nodes []*root) (all []string) {
	for _, node := range nodes {
		all = append(all, node.tree())
	}
	return all
}
