package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"container-registry-proxy/test/lack"
)

// withSystemd has systemd as the first process of a machine: this machine's files with all that is written kept aside, in
// memory, and a network where nothing is. What belongs to hardware is left out.
const withSystemd = `set -e
ip link set lo up
mount --make-rprivate /
mount -t tmpfs tmpfs "$PWD"
cd "$PWD"
mkdir r upper work
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay r
cd r
mkdir -p srv/source/bin srv/source/deploy
cp "$program" srv/source/bin/container-registry-proxy
cp -r "$source/deploy/systemd" srv/source/deploy/
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
	touch dev/$name
	mount --bind /dev/$name dev/$name
done
mkdir dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
rm -rf etc/systemd/system/*.wants etc/systemd/system/container-registry-proxy* etc/container-registry-proxy
: >etc/fstab
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-modules-load.service systemd-sysctl.service \
	systemd-remount-fs.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount apparmor.service; do
	ln -sf /dev/null etc/systemd/system/$unit
done
printf '[Unit]\nRequires=basic.target\nAfter=basic.target\n' >etc/systemd/system/e2e.target
mkdir run/outside
pivot_root . run/outside
umount -l run/outside
mount --make-rshared /
exec env -i container=e2e PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=e2e.target
`

// ownGroup makes a control group for what a test starts, and ends what is in it with the test.
func ownGroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var dir string
	for lines := bufio.NewScanner(bytes.NewReader(mounts)); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); dir == "" && fields[2] == "cgroup2" {
			dir = filepath.Join(fields[1], fmt.Sprintf("container-registry-proxy-e2e-%d", os.Getpid()))
		}
	}
	if dir == "" {
		lack.Of(t, "control groups, version 2")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		lack.Of(t, "a control group of its own: %v", err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o600); err != nil {
			t.Error(err)
		}
		poll(t, func() error { return removeGroup(dir) }, func() string { return dir })
	})
	return dir
}

// removeGroup removes a control group and those in it, once all that was in them has ended.
func removeGroup(dir string) error {
	var groups []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			groups = append(groups, path)
		}
		return err
	})
	for _, group := range slices.Backward(groups) {
		err = errors.Join(err, os.Remove(group))
	}
	return err
}

// systemd is a machine that it runs.
type systemd struct {
	t   *testing.T
	pid string // of its first process, as this machine counts
}

func startSystemd(t *testing.T) *systemd {
	t.Helper()
	need(t, "ip", "nsenter", "pivot_root", "unshare", "systemd-analyze", "curl")
	source, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	group := ownGroup(t)
	script := fmt.Sprintf("cd %s\nprogram=%s\nsource=%s\n", shortDir(t), program, source) + withSystemd
	d := command{args: []string{"sh", "-c", `echo $$ >"$1/cgroup.procs" && exec unshare --mount --net --pid --cgroup --uts --ipc --fork sh -c "$2"`, "sh", group, script}}.start(t)
	t.Cleanup(func() { _ = os.WriteFile(filepath.Join(group, "cgroup.kill"), []byte("1"), 0o600) }) // before d is asked to end
	s := &systemd{t: t}
	d.awaitReady(func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", d.cmd.Process.Pid))
		if s.pid = strings.TrimSpace(string(children)); err != nil || s.pid == "" {
			return errors.Join(err, errors.New("no first process yet"))
		}
		return succeeds(s.command("systemctl is-active e2e.target"), t)()
	})
	return s
}

func (s *systemd) command(line string) command {
	return command{args: []string{"nsenter", "--target=" + s.pid, "--mount", "--net", "--pid", "--cgroup", "--uts", "--ipc", "--",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "sh", "-ec", "cd /srv/source\n" + line}}
}

func (s *systemd) run(line string) string {
	s.t.Helper()
	return s.command(line).run(s.t)
}

// await waits until a command line succeeds.
func (s *systemd) await(line string) {
	s.t.Helper()
	poll(s.t, succeeds(s.command(line), s.t), func() string { return s.run("journalctl --no-pager --unit=container-registry-proxy || :") })
}

// The units as docs/install.md has them installed, under systemd itself, with all that hardens them.
func TestUnitsUnderSystemd(t *testing.T) {
	t.Parallel()
	long(t, "it boots a machine")
	s := startSystemd(t)
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "## systemd\n")
	_, block, _ = strings.Cut(block, "```sh\nmake build\n")
	block, _, _ = strings.Cut(block, "```")
	s.run(block)
	const healthy = "curl -fsS http://127.0.0.1:3128/healthz"
	s.run(healthy)
	authority := s.run("curl -fsS http://127.0.0.1:3128/ca.crt")
	if got := s.run("grep -E '^(Uid|CapBnd|NoNewPrivs|Seccomp):' /proc/$(systemctl show --property=MainPID --value container-registry-proxy)/status"); strings.Contains(got, "\t0\t") ||
		!strings.Contains(got, "CapBnd:\t0000000000000000") || !strings.Contains(got, "NoNewPrivs:\t1") || !strings.Contains(got, "Seccomp:\t2") {
		t.Errorf("the service runs as root, or with rights:\n%s", got)
	}

	// A secret that is root's alone is handed over, the state is kept, and a reload reaches the program.
	s.run(`cd /etc/container-registry-proxy
echo CONFIG_FILE=/etc/container-registry-proxy/config.yaml >>environment
printf 'credentials:\n  - registry: quay.io\n    username: robot\n    password_file: /run/credentials/container-registry-proxy.service/quay\n' >config.yaml
umask 077
echo secret >quay
umask 022
mkdir /etc/systemd/system/container-registry-proxy.service.d
printf '[Service]\nLoadCredential=quay:/etc/container-registry-proxy/quay\n' >/etc/systemd/system/container-registry-proxy.service.d/quay.conf
systemctl daemon-reload
systemctl restart container-registry-proxy`)
	s.run(healthy)
	if got := s.run("curl -fsS http://127.0.0.1:3128/ca.crt"); got != authority {
		t.Error("after a restart there is another authority")
	}
	s.run("systemctl reload container-registry-proxy")
	s.await("journalctl --no-pager --unit=container-registry-proxy | grep -q 'configuration is read again'")

	// systemd keeps the port open: the first client starts the program, and a restart refuses none.
	s.run(`systemctl stop container-registry-proxy
install -m 644 deploy/systemd/container-registry-proxy.socket /etc/systemd/system/
systemctl daemon-reload
systemctl enable --now container-registry-proxy.socket
[ "$(systemctl is-active container-registry-proxy)" = inactive ]
` + healthy + `
[ "$(systemctl is-active container-registry-proxy)" = active ]
systemctl restart container-registry-proxy &
for i in $(seq 30); do ` + healthy + ` || case $? in 52 | 56) ;; *) exit 1 ;; esac; done # cut at the very end, perhaps, and never refused
wait $!`)

	// A wrong setting does not become right by trying again.
	s.run(`systemctl disable --now container-registry-proxy.socket
echo CACHE_MAX_SIZE=huge >>/etc/container-registry-proxy/environment
! systemctl restart container-registry-proxy`)
	s.await(`[ "$(systemctl show --property=ActiveState,NRestarts,ExecMainStatus --value container-registry-proxy | sort | xargs)" = "0 2 failed" ]`)
}
