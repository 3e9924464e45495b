package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// node is a machine of Kubernetes: the kubelet itself, and Debian's containerd, runc and network plugins. No control plane
// says what it is to run, but files do. Nothing else is in its network but a registry, whose name pods alone resolve.
type node struct {
	*root
	network *network
	files   string // directory, which the node has at nodeFiles
	origin  origin

	mu    sync.Mutex            // guards names
	names map[string]netip.Addr // that pods can resolve
}

const (
	nodeFiles   = "/usr/local/kubelet" // on the node
	nodeAddress = "10.213.0.1"
	pauseImage  = "pause.test/pause" // what pods are made of; there is no such registry

	podTimeout = 5 * time.Minute // for what pulls an image or starts a pod
)

// makeNode prepares the machine. What the kubelet would set for all of the kernel, it finds set.
const makeNode = `mkdir -p usr/local/kubelet var/lib/kubelet var/lib/cni
mount --bind %s usr/local/kubelet
mount -t tmpfs tmpfs var/lib/kubelet
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
	echo ${setting#*=} >run/${setting##*/}
	mount --bind run/${setting##*/} proc/sys/${setting%%=*}
done
rm -rf etc/cni/net.d etc/containerd
mkdir -p etc/cni/net.d etc/containerd
cp usr/local/kubelet/cni.conflist etc/cni/net.d/10-pods.conflist
cp usr/local/kubelet/containerd.toml etc/containerd/config.toml
ip address add ` + nodeAddress + `/32 dev lo
echo 1 >/proc/sys/net/ipv4/ip_forward
`

// nodeSettings are the files that the node's programs read.
var nodeSettings = map[string]string{
	"containerd.toml": `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + pauseImage + `:latest"
  disable_apparmor = true
  restrict_oom_score_adj = true # there are machines where root has no CAP_SYS_RESOURCE
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
`,
	"cni.conflist": `{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "pods0", "isGateway": true,
"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.215.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`,
	"kubelet.yaml": `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: ` + nodeFiles + `/pods
fileCheckFrequency: 2s
syncFrequency: 5s
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: CGROUP
enforceNodeAllocatable: [none]
clusterDNS: [` + nodeAddress + `]
clusterDomain: cluster.local
resolvConf: ""
failSwapOn: false
evictionHard: {memory.available: 1Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
`,
}

// startNode starts one that has the proxy's image, as if somebody had loaded it there.
func startNode(t *testing.T, world *registrytest.World) *node {
	t.Helper()
	need(t, "containerd", "runc", "ctr", "ip", "iptables", "/usr/lib/cni/bridge", "make", "openssl", "tar")
	n := &node{files: shortDir(t), network: newNetwork(t), names: map[string]netip.Addr{}}
	build := goCommand("build", "-C", "../kubelet", "-p=1", "-trimpath", "-ldflags=-s -w", "-o", n.files+"/", "k8s.io/kubernetes/cmd/kubelet")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the kubelet: %v\n%s", err, out)
	}
	group := newControlGroup(t)
	for name, text := range nodeSettings {
		writeFile(t, filepath.Join(n.files, name), strings.ReplaceAll(text, "CGROUP", group))
	}
	command{args: []string{"mkdir", filepath.Join(n.files, "pods")}}.run(t)
	n.root = newRoot(t, n.network, "/", fmt.Sprintf(makeNode, n.files))
	n.origin = originIn(t, n.network, nodeAddress, world, "registry.test", newImage(t, 150))
	n.serveNames()
	n.resolve("registry.test", nodeAddress)

	n.run("mount --make-rshared /") // containerd sees what the kubelet mounts
	// What containerd starts ends with it: it is the first process of a namespace. The shell, which is told to end, makes
	// unshare end with it, which is not.
	containerd := n.command("unshare --pid --fork --kill-child --mount --propagation=slave sh -c 'mount -t proc proc /proc && exec containerd --log-level warn'; :").start(t)
	containerd.awaitReady(succeeds(n.command("ctr version"), t))
	n.load(imageFile(t, "container-registry-proxy-image-"+runtime.GOARCH+".tar"), "docker.io/library/container-registry-proxy")
	n.load(archive(t, newImageOf(t, 160, "/bin/hello", "pause"), "latest"), pauseImage)
	kubelet := n.command(fmt.Sprintf("exec %[1]s/kubelet --config=%[1]s/kubelet.yaml --node-ip=%s --hostname-override=node --cert-dir=/run/kubelet", nodeFiles, nodeAddress)).start(t)
	kubelet.awaitWithin(podTimeout, func() error { _, err := n.pods(); return err })
	return n
}

// newControlGroup makes one of the test's own in every hierarchy, and removes what is in it at the end.
func newControlGroup(t *testing.T) (path string) {
	t.Helper()
	name := filepath.Base(shortDir(t))
	command{args: []string{"sh", "-ec", "for dir in /sys/fs/cgroup/*/; do mkdir -p $dir$0; done", name}}.run(t)
	t.Cleanup(func() {
		remove := command{args: []string{"sh", "-c", "find /sys/fs/cgroup/*/$0 -depth -type d -exec rmdir {} +", name}}
		poll(t, succeeds(remove, t), func() string { return "processes are left in control group " + name })
	})
	return "/" + name
}

// load gives the node the image of a file, which has a tag but no name.
func (n *node) load(file, name string) {
	n.t.Helper()
	command{args: []string{"cp", file, filepath.Join(n.files, "image.tar")}}.run(n.t)
	n.run("ctr --namespace k8s.io images import --base-name " + name + " " + nodeFiles + "/image.tar")
}

// archive writes an image into a file, as an OCI layout.
func archive(t *testing.T, img registrytest.Image, tag string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(d oci.Digest, blob []byte) {
		writeFile(t, filepath.Join(dir, "blobs", d.Algorithm(), d.Hex()), string(blob))
	}
	for digest, blob := range img.Blobs {
		write(digest, blob)
	}
	write(img.Digest, img.Manifest)
	writeFile(t, filepath.Join(dir, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`)
	writeFile(t, filepath.Join(dir, "index.json"), fmt.Sprintf(
		`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":%q}}]}`,
		img.MediaType, img.Digest, img.Size, tag))
	command{args: []string{"tar", "-C", dir, "-cf", filepath.Join(dir, "image.tar"), "oci-layout", "index.json", "blobs"}}.run(t)
	return filepath.Join(dir, "image.tar")
}

// podStatus is what the kubelet says of a pod.
type podStatus struct {
	Phase, PodIP string
	Conditions   []struct{ Type, Status string }
	// ContainerStatuses are those of its containers.
	ContainerStatuses []struct {
		ImageID string
		State   struct {
			Waiting struct{ Reason, Message string }
		}
	}
}

// is reports whether a condition holds.
func (s podStatus) is(condition string) bool {
	for _, c := range s.Conditions {
		if c.Type == condition {
			return c.Status == "True"
		}
	}
	return false
}

// pods are the node's pods by name, as the kubelet has them.
func (n *node) pods() (map[string]podStatus, error) {
	insecure := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DialContext: n.network.dial}
	defer insecure.CloseIdleConnections()
	resp, err := (&http.Client{Transport: insecure}).Get("https://" + nodeAddress + ":10250/pods")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   podStatus
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("pods of the kubelet: %s: %w", resp.Status, err)
	}
	found := map[string]podStatus{}
	for _, item := range list.Items {
		found[strings.TrimSuffix(item.Metadata.Name, "-node")] = item.Status // the node's own suffix
	}
	return found, nil
}

// await waits until a pod is as it has to be; it is ok=false while there is none.
func (n *node) await(name, what string, as func(s podStatus, ok bool) bool) (s podStatus) {
	n.t.Helper()
	n.awaitThat(name, what, func() error {
		pods, err := n.pods()
		if err != nil {
			return err
		}
		ok := false
		if s, ok = pods[name]; !as(s, ok) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	return s
}

// awaitThat tries until it succeeds, and ends the test with what the pod has said if that takes too long.
func (n *node) awaitThat(name, what string, try func() error) {
	n.t.Helper()
	for deadline := time.Now().Add(podTimeout); ; time.Sleep(500 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("pod %s is not %s after %s: %v\n%s", name, what, podTimeout, err, tail(n.logs(name), 40))
		}
	}
}

// resolve has pods resolve a name.
func (n *node) resolve(name, address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[name+"."] = netip.MustParseAddr(address)
}

// serveNames is the name service of the pods. The node has none.
func (n *node) serveNames() {
	n.t.Helper()
	var conn net.PacketConn
	if err := n.network.within(func() (err error) {
		conn, err = net.ListenPacket("udp", nodeAddress+":53")
		return err
	}); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	go func() { // until it is closed
		question := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(question)
			if err != nil {
				return
			}
			if answer, err := n.answer(question[:size]); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
}

func (n *node) answer(question []byte) ([]byte, error) {
	var message dnsmessage.Message
	if err := message.Unpack(question); err != nil {
		return nil, err
	}
	message.Response, message.Additionals = true, nil
	for _, q := range message.Questions {
		n.mu.Lock()
		address, ok := n.names[strings.ToLower(q.Name.String())]
		n.mu.Unlock()
		switch {
		case !ok:
			message.RCode = dnsmessage.RCodeNameError
		case q.Type == dnsmessage.TypeA:
			message.Answers = append(message.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: address.As4()},
			})
		}
	}
	return message.Pack()
}
