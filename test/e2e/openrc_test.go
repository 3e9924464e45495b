package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// openRC has a machine without systemd, with OpenRC in its place as it is after a boot, and Docker as Alpine has it there.
const openRC = `rmdir run/systemd/system run/systemd
cp -a %[1]s/root/lib/. usr/lib/
cp -a %[1]s/root/sbin/. usr/sbin/
cp -a %[1]s/root/usr/. usr/
cp -an %[1]s/root/etc/. etc/
rm -f etc/init.d/* usr/local/sbin/systemctl
touch etc/insserv.conf
echo 'rc_controller_cgroups="NO"' >>etc/rc.conf
for dir in starting started stopping inactive failed hotplugged daemons options exclusive scheduled tmp wasinactive; do mkdir -p run/openrc/$dir; done
echo default >run/openrc/softlevel
cat >etc/init.d/docker <<'END'
#!/sbin/openrc-run
command=/usr/sbin/dockerd
command_args="--host unix:///run/docker.sock --iptables=false --ip6tables=false --bridge=none"
command_background=yes
pidfile=/run/dockerd-openrc.pid
retry=TERM/60/KILL/10
END
chmod 755 etc/init.d/docker
chroot . rc-update -u
`

// OpenRC itself starts Docker with what the script has written for it.
func TestSetUpUnderOpenRC(t *testing.T) {
	t.Parallel()
	long(t, "it fetches OpenRC from Debian's mirror")
	need(t, "dockerd", "docker", "containerd")
	packages := t.TempDir()
	command{args: []string{"sh", "-ec", "cd " + packages + ` && apt-get -q download openrc librc1 libeinfo1
for package in *.deb; do dpkg-deb -x "$package" root; done`}}.run(t)
	p, hub, _ := mirrorWorld(t)
	r := startRoot(t, p, fmt.Sprintf(openRC, packages))
	before := r.tree()
	line := fmt.Sprintf("curl -fsS 'http://%s/setup/docker' | sh", proxyAddress)
	r.run(line)
	after := r.tree()
	r.run(line)
	r.wantTree("after the second run", after)

	defer r.run("rc-service --ifstarted docker stop") // it is no child of this test
	r.run("rc-service docker start")
	const docker = "docker --host unix:///run/docker.sock "
	poll(t, succeeds(r.command(docker+"version"), t), func() string { return r.run("rc-service docker status") })
	pullTwice(t, &shellClient{
		root: r, get: docker + "pull --quiet IMAGE && " + docker + "image inspect --format '{{.Id}}' IMAGE",
		empty: docker + "rmi --force IMAGE", alsoIsAbsent: docker + "images --all --quiet",
	}, p, hub)

	r.run(fmt.Sprintf("curl -fsS 'http://%s/setup/docker/undo' | sh", proxyAddress)) // which restarts it
	if told := r.run("tr '\\0' '\\n' </proc/$(cat /run/dockerd-openrc.pid)/environ"); strings.Contains(told, "HTTPS_PROXY") {
		t.Errorf("after the undo dockerd is told %s", told)
	}
	r.run("rc-service docker stop")
	r.wantTree("after the undo", before)
}
