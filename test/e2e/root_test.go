package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// root is a machine of the test's own, for scripts that change one: the file system of this machine, or another (as that of
// TestDebootstrap), with all that is written kept aside, in memory, and a network where nothing is but the proxy, at
// proxyAddress. It is the root of its mount namespace, so that containers can run on it. systemctl is a stand-in that notes
// what it is told.
type root struct {
	t *testing.T
	// pid is of a process on the machine, whose mounts and network are the machine's.
	pid int
}

// proxyAddress is the one in the originals' READMEs.
const proxyAddress = "192.168.66.72:3128"

const makeRoot = `set -e
mount -t tmpfs tmpfs "$PWD"
cd "$PWD"
mkdir r upper work
mount -t overlay -o lowerdir="$lower",upperdir=upper,workdir=work overlay r
cd r
mount -t tmpfs tmpfs run
mkdir -p run/systemd/system var/lib/docker var/lib/containerd var/lib/containers
for dir in var/lib/docker var/lib/containerd var/lib/containers; do mount -t tmpfs tmpfs $dir; done
for dir in proc sys dev; do mount --rbind /$dir $dir; done
mount -t tmpfs tmpfs dev/shm
mkdir -p etc/docker # which dockerd makes
rm -f etc/ca-certificates/update.d/* # what Java and others have there takes long
cat >usr/local/sbin/systemctl <<'END'
#!/bin/sh
case $1 in
cat)
	for dir in /etc/systemd/system /lib/systemd/system /usr/lib/systemd/system; do [ ! -e "$dir/$2" ] || exit 0; done
	exit 1 ;;
esac
echo "systemctl $*" >>/run/systemctl-calls
END
chmod 755 usr/local/sbin/systemctl
`

// enterRoot makes the directory that the machine is in its root, and waits there.
const enterRoot = `
mkdir run/outside
pivot_root . run/outside
umount -l run/outside
rmdir run/outside
echo made
exec sleep infinity
`

// fewRoots leaves few of the authorities that this machine trusts: update-ca-certificates starts several programs for each.
const fewRoots = `grep -v '^[#!]' etc/ca-certificates.conf | head -n 8 >run/roots
mv run/roots etc/ca-certificates.conf
rm -f etc/ssl/certs/*.*
TMPDIR=/run chroot . update-ca-certificates
`

// startRoot makes a machine with a proxy in its network. More shell commands prepare it; they run in its root directory.
func startRoot(t *testing.T, p *proxy, prepare string) *root {
	t.Helper()
	return startRootOf(t, p, "/", fewRoots+prepare)
}

// startRootOf is startRoot upon another file system than this machine's.
func startRootOf(t *testing.T, p *proxy, lower, prepare string) *root {
	t.Helper()
	need(t, "curl", "update-ca-certificates")
	n := newNetwork(t)
	host, _, _ := strings.Cut(proxyAddress, ":")
	command{args: n.enter("ip", "address", "add", host+"/32", "dev", "lo")}.run(t)
	n.serve(t, p.address)
	return newRoot(t, n, lower, prepare)
}

// newRoot makes a machine in a network.
func newRoot(t *testing.T, n *network, lower, prepare string) *root {
	t.Helper()
	need(t, "nsenter", "pivot_root", "unshare")
	script := "cd " + shortDir(t) + "\nlower=" + lower + "\n" + makeRoot + prepare + enterRoot
	d := command{args: n.enter("unshare", "--mount", "sh", "-c", script)}.start(t)
	d.awaitReady(func() error {
		if !strings.HasSuffix(d.text(), "made\n") {
			return errors.New("not made yet")
		}
		return nil
	})
	return &root{t: t, pid: d.cmd.Process.Pid}
}

// serve has this network's proxyAddress lead to the proxy, which listens outside of it.
func (n *network) serve(t *testing.T, address string) {
	t.Helper()
	listener, err := n.listen(t.Context(), proxyAddress)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() { // until the listener is closed
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go relay(client, address) // until either end closes
		}
	}()
}

func relay(client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	go func() { // until the client has said all
		_, _ = io.Copy(server, client)
		_ = server.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(client, server)
}

// command is a command line of sh on this machine, as root of a fresh login.
func (r *root) command(line string, environ ...string) command {
	enter := []string{"nsenter", fmt.Sprintf("--target=%d", r.pid), "--mount", "--net", "--", "env", "-i"}
	environ = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/run"}, environ...)
	return command{args: append(append(enter, environ...), "sh", "-c", line)}
}

// path is where this machine has a file of the machine's.
func (r *root) path(name string) string { return fmt.Sprintf("/proc/%d/root/%s", r.pid, name) }

func (r *root) run(line string) string {
	r.t.Helper()
	return r.command(line).run(r.t)
}

// calls are what systemctl was told since the last time.
func (r *root) calls() string {
	return r.run("cat /run/systemctl-calls 2>/dev/null; rm -f /run/systemctl-calls")
}

// tree is all that a script could change, as text: names, kinds, modes, owners, sizes and links, and the digests of what is
// about clients and trust. What clients themselves make at their first start is left away.
func (r *root) tree() string {
	r.t.Helper()
	return r.run(`cd / && rm -f etc/docker/key.json etc/cni/net.d/cni.lock && ls var/lib &&
find etc usr/local/s* usr/share/ca-certificates \( -type d -printf '%p %m %U:%G\n' -o -printf '%p %y %m %U:%G %s %l\n' \) | sort &&
find etc/docker etc/containerd etc/containers etc/systemd etc/ca-certificates* etc/ssl/certs/ca-certificates.crt usr/local/share -type f -exec sha256sum {} + | sort -k2`)
}

// wantTree reports what is another than before.
func (r *root) wantTree(when, want string) {
	r.t.Helper()
	got := r.tree()
	if got == want {
		return
	}
	dir := r.t.TempDir()
	out, _ := exec.Command("diff", writeFile(r.t, filepath.Join(dir, "before"), want), writeFile(r.t, filepath.Join(dir, "after"), got)).Output()
	r.t.Errorf("%s the machine is another:\n%s", when, out)
}

// environment is what the drop-ins of a unit have systemd set for its program.
func (r *root) environment(unit string) []string {
	r.t.Helper()
	text := r.run("cat /etc/systemd/system/" + unit + ".d/*.conf /usr/lib/systemd/system/" + unit + ".d/*.conf 2>/dev/null || :")
	var environ []string
	for line := range strings.Lines(text) {
		if words, ok := strings.CutPrefix(strings.TrimSpace(line), `Environment="`); ok {
			environ = append(environ, strings.Split(strings.TrimSuffix(words, `"`), `" "`)...)
		}
	}
	return environ
}

// start starts the program of a unit with the environment that systemd would give it.
func (r *root) start(unit, line string) *daemon {
	r.t.Helper()
	return r.command("exec "+line, r.environment(unit)...).start(r.t)
}

// listen listens on an address of this network.
func (n *network) listen(ctx context.Context, address string) (listener net.Listener, err error) {
	err = n.within(func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, "tcp", address)
		return err
	})
	return listener, err
}

// A machine whose scripts could change this one would be no test.
func TestRootIsItsOwn(t *testing.T) {
	t.Parallel()
	r := startRoot(t, startProxy(t, registrytest.NewWorld(t)), "")
	const line = "echo there >/usr/local/root-test && echo there >/etc/root-test && mkdir -p /var/lib/root-test && cat /usr/local/root-test"
	if got := r.run(line); got != "there" {
		t.Errorf("the machine has %q", got)
	}
	out, err := exec.CommandContext(t.Context(), "ls", "-d", "/usr/local/root-test", "/etc/root-test", "/var/lib/root-test").CombinedOutput()
	if err == nil || bytes.Count(out, []byte("No such file")) != 3 {
		t.Errorf("this machine has %s", out)
	}
	var here syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/net", &here); err != nil {
		t.Fatal(err)
	}
	if got := r.run("stat -Lc %i /proc/self/ns/net"); got == fmt.Sprint(here.Ino) {
		t.Error("it is in this machine's network")
	}
}
