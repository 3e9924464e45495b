package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// makeDebian makes a root of Debian 12's packages in a directory, from the mirror that this machine's apt has it from, with
// the clients that Debian has. debootstrap lays the ground; apt knows better in which order packages are to be configured.
const makeDebian = `unset TMPDIR # which is not in the root
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Release: bookworm' 'Created-By: Packages' | head -n 1)
eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"
export http_proxy https_proxy
debootstrap --variant=minbase bookworm "$0" "${mirror:-http://deb.debian.org/debian}"
printf '#!/bin/sh\nexit 101\n' >"$0/usr/sbin/policy-rc.d" # packages start no service
chmod 755 "$0/usr/sbin/policy-rc.d"
cp /etc/resolv.conf "$0/etc/resolv.conf"
mount -t proc proc "$0/proc"
DEBIAN_FRONTEND=noninteractive chroot "$0" apt-get -q -y install --no-install-recommends ca-certificates containerd curl docker.io iproute2 podman runc skopeo
rm -rf "$0/usr/sbin/policy-rc.d" "$0"/var/cache/apt/archives/*.deb "$0"/var/lib/apt/lists/*
: >"$0/etc/resolv.conf"
`

// debianTimeout bounds it: some hundred packages are fetched.
const debianTimeout = 20 * time.Minute

// debian makes a root of Debian's packages.
func debian(t *testing.T) (dir string) {
	t.Helper()
	need(t, "debootstrap")
	dir = filepath.Join(t.TempDir(), "debian")
	d := command{args: []string{"sh", "-ec", makeDebian, dir}, env: proxiesOfThisMachine()}.start(t)
	select {
	case <-d.ended:
	case <-time.After(debianTimeout):
		t.Fatalf("no root after %s:\n%s", debianTimeout, tail(d.text(), 20))
	}
	if d.exitCode() != 0 {
		t.Fatalf("no root:\n%s", tail(d.text(), 40))
	}
	return dir
}

// proxiesOfThisMachine are those by which it reaches a mirror.
func proxiesOfThisMachine() (env []string) {
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		for _, name := range []string{name, strings.ToUpper(name)} {
			if value, ok := os.LookupEnv(name); ok {
				env = append(env, name+"="+value)
			}
		}
	}
	return env
}

// Every script in each of its modes, the blocks of the originals' READMEs and their snippets for Kind to the letter, on
// machines that debootstrap made: nothing is on them but Debian's packages.
func TestDebootstrap(t *testing.T) {
	t.Parallel()
	long(t, "debootstrap takes minutes and Debian's mirror")
	dir := debian(t)
	machine := func(t *testing.T, p *proxy, prepare string) *root {
		t.Helper()
		return startRootOf(t, p, dir, fewRoots+prepare)
	}
	for _, c := range append(everyScript(), scriptsWithoutDebian()...) {
		t.Run(c.path, func(t *testing.T) {
			t.Parallel()
			c.test(t, machine)
		})
	}
	setsUpBuildKit(t, machine)
	t.Run("README", func(t *testing.T) {
		runsReadmeBlocks(t, func(t *testing.T, p *proxy, prepare string) *root {
			t.Helper()
			return startRootOf(t, p, dir, prepare) // as it is, with all its authorities
		})
	})
	for _, engine := range []string{"podman", "docker"} {
		t.Run("Kind of "+engine, func(t *testing.T) {
			t.Parallel()
			runsOnNodes(t, machine, engine)
		})
	}
}

// scriptsWithoutDebian are the scripts for clients that Debian has no package of, and the originals', which is for several
// clients. CRI-O pulls with what podman pulls with, and K3s with containerd: these are started in their place, with the
// environment that the unit's drop-in sets. Of K3s's own file nobody else reads, the text is checked.
func scriptsWithoutDebian() []configured {
	unit := func(name string) string { return "echo '[Service]' >lib/systemd/system/" + name + "\n" }
	const k3s = "printf '#!/bin/sh\\n' >usr/local/bin/k3s\nchmod 755 usr/local/bin/k3s\n"
	return []configured{
		{
			path: "systemd", told: restarted("docker.service") + "\n" + restarted("podman.service") + "\n" + restarted("containerd.service"),
			clients: []func(*root) client{newDockerd, podmanAs("podman.service"), newCRI},
		},
		{path: "crio", prepare: unit("crio.service"), told: restarted("crio.service"), clients: []func(*root) client{podmanAs("crio.service")}},
		{
			path: "crio?mode=mirror", prepare: unit("crio.service"), told: "systemctl try-reload-or-restart crio.service",
			clients: []func(*root) client{newPodman, newSkopeo},
		},
		{path: "k3s", prepare: k3s + unit("k3s.service"), told: restarted("k3s.service"), clients: []func(*root) client{newK3s}},
		{
			path: "k3s?mode=mirror", prepare: k3s + unit("k3s-agent.service"), told: restarted("k3s-agent.service"),
			file: "/etc/rancher/k3s/registries.yaml", text: "# From http://" + proxyAddress + `/setup
mirrors:
  "auth.other.test":
    endpoint: ["http://` + proxyAddress + `"]
  "docker.io":
    endpoint: ["http://` + proxyAddress + `"]
  "other.test":
    endpoint: ["http://` + proxyAddress + `"]
`,
		},
	}
}

// podmanAs is podman as systemd would start it for a unit.
func podmanAs(unit string) func(*root) client {
	return func(r *root) client {
		c := newPodman(r).(*shellClient)
		c.environ = r.environment(unit)
		return c
	}
}

// newK3s is the containerd of K3s, which is told what K3s is told of it.
func newK3s(r *root) client {
	var environ []string
	for _, variable := range r.environment("k3s.service") {
		if variable, ok := strings.CutPrefix(variable, "CONTAINERD_"); ok {
			environ = append(environ, variable)
		}
	}
	return newContainerd(r, environ)
}
