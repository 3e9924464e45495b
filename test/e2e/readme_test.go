package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// What the originals' READMEs have people do on each client, to the letter; the block has a part for each distribution.
const (
	readmeHead = `# Add environment vars pointing Podman to use the proxy
mkdir -p /usr/lib/systemd/system/docker.service.d
cat << EOD > /usr/lib/systemd/system/podman.service.d/http-proxy.conf
[Service]
Environment="HTTP_PROXY=http://192.168.66.72:3128/"
Environment="HTTPS_PROXY=http://192.168.66.72:3128/"
EOD
`
	readmeUbuntu = `### UBUNTU
# Get the CA certificate from the proxy and make it a trusted root.
curl http://192.168.66.72:3128/ca.crt > /usr/share/ca-certificates/container_registry_proxy.crt
echo "container_registry_proxy.crt" >> /etc/ca-certificates.conf
update-ca-certificates --fresh
###
`
	readmeCentOS = `### CENTOS
# Get the CA certificate from the proxy and make it a trusted root.
curl http://192.168.66.72:3128/ca.crt > /etc/pki/ca-trust/source/anchors/container_registry_proxy.crt
update-ca-trust
###
`
	readmeTail = `# Reload systemd
systemctl daemon-reload
# Restart dockerd
systemctl restart podman.service
`
)

func TestReadmeBlocks(t *testing.T) {
	t.Parallel()
	need(t, "podman")
	runsReadmeBlocks(t, startRoot)
}

// The directory that the block forgets is made first. The machines are Debian: CentOS' update-ca-trust is a stand-in.
func runsReadmeBlocks(t *testing.T, machine makeMachine) {
	const forgotten = "mkdir -p usr/lib/systemd/system/podman.service.d\n"
	for name, tt := range map[string]struct{ prepare, block string }{
		"Ubuntu": {forgotten, readmeHead + readmeUbuntu + readmeTail},
		"CentOS": {forgotten + `mkdir -p etc/pki/ca-trust/source/anchors
cat >usr/local/sbin/update-ca-trust <<'END'
#!/bin/sh
cat /etc/pki/ca-trust/source/anchors/*.crt >>/etc/ssl/certs/ca-certificates.crt
END
chmod 755 usr/local/sbin/update-ca-trust
`, readmeHead + readmeCentOS + readmeTail},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, hub, _ := mirrorWorld(t)
			r := machine(t, p, tt.prepare)
			r.run("set -e\n" + tt.block)
			if got, want := r.calls(), "systemctl daemon-reload\nsystemctl restart podman.service"; got != want {
				t.Errorf("systemctl was told\n%s\nwant\n%s", got, want)
			}
			c := podmanAs("podman.service")(r).(*shellClient)
			if len(c.environ) != 2 {
				t.Errorf("the drop-in sets %q, want HTTP_PROXY and HTTPS_PROXY", c.environ)
			}
			pullTwice(t, c, p, hub)
		})
	}
}

// The scripts of both originals for Kind. PROXY, ENGINE and UNIT are where they differ.
const readmeKind = `#!/bin/sh
KIND_NAME=${1-kind}
SETUP_URL=http://PROXY:3128/setup/systemd
pids=""
for NODE in $(kind get nodes --name "$KIND_NAME"); do
  ENGINE exec "$NODE" sh -c "\
      curl $SETUP_URL \
      | sed s/UNIT\.service/containerd\.service/g \
      | sed '/Environment/ s/$/ \"NO_PROXY=127.0.0.0\/8,10.0.0.0\/8,172.16.0.0\/12,192.168.0.0\/16\"/' \
      | bash" & pids="$pids $!" # Configure every node in background
done
wait $pids # Wait for all configurations to end
`

// readmeKindFor is the script of one of the originals, and what it calls the proxy.
func readmeKindFor(engine string) (script, proxyName string) {
	proxyName = map[string]string{"podman": "container-registry-proxy", "docker": "docker-registry-proxy"}[engine]
	return strings.NewReplacer("PROXY:", proxyName+":", "ENGINE", engine, "UNIT", engine).Replace(readmeKind), proxyName
}

// A stand-in for kind lists one node, and a stand-in for the engine runs what it is told there: in this machine, where
// containerd is then started as systemd would.
func TestReadmeKindSnippets(t *testing.T) {
	t.Parallel()
	need(t, "containerd", "ctr")
	for _, engine := range []string{"podman", "docker"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			p, hub, other := mirrorWorld(t)
			script, proxyName := readmeKindFor(engine)
			r := startRoot(t, p, fmt.Sprintf(`echo '192.168.66.72 %[2]s' >>etc/hosts
printf '#!/bin/sh\n[ "$*" = "get nodes --name kind" ] && echo kind-control-plane\n' >usr/local/sbin/kind
printf '#!/bin/sh\n[ "$1 $2" = "exec kind-control-plane" ] && shift 2 && exec "$@"\n' >usr/local/sbin/%[1]s
chmod 755 usr/local/sbin/kind usr/local/sbin/%[1]s
find lib/systemd/system -name '%[1]s.service' -delete # a node has none
`, engine, proxyName))
			r.run(script)
			wantKindNode(t, r, proxyName)
			c := newCRI(r)
			pullTwice(t, c, p, hub)
			pullTwice(t, c, p, other)
		})
	}
}

// wantKindNode checks what one of these scripts has made of a node.
func wantKindNode(t *testing.T, r *root, proxyName string) {
	t.Helper()
	if got := r.calls(); !strings.Contains(got, "systemctl daemon-reload\nsystemctl try-restart containerd.service") {
		t.Errorf("systemctl was told %q", got)
	}
	want := []string{"HTTPS_PROXY=http://" + proxyName + ":3128/", "NO_PROXY=127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"}
	if got := r.environment("containerd.service"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("containerd is started with %q, want %q", got, want)
	}
}
