package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"container-registry-proxy/internal/registrytest"
)

// The pods of the manifests as they are shipped, run by the kubelet itself: the proxy becomes ready by its own probes; the
// node's set-up has containerd know it, so that images are pulled through it, and takes away what it has made when its pod
// goes; another pod of the proxy has what the one before had cached.
func TestManifestsUnderKubelet(t *testing.T) {
	t.Parallel()
	long(t, "building the kubelet takes many minutes")
	world := registrytest.NewWorld(t)
	n := startNode(t, world)
	n.makeAuthority(world)
	before := n.tree()
	n.startProxy()
	n.setUp()
	if asked := n.pull("cold"); asked == 0 {
		t.Error("the registry was asked for no blob")
	}
	if asked := n.pull("warm"); asked != 0 {
		t.Errorf("warm: the registry was asked for %d blobs", asked)
	}
	n.remove("nodes")
	n.wantTree("without the set-up", before)
	n.wantNoPull("alone")

	n.remove("proxy")
	n.startProxy()
	n.setUp()
	if asked := n.pull("again"); asked != 0 {
		t.Errorf("with another pod of the proxy: the registry was asked for %d blobs", asked)
	}
	n.remove("nodes")
	n.remove("proxy")
	n.wantTree("in the end", before)
}

// object is one of Kubernetes, or a part of one.
type object = map[string]any

// manifest is an object of a kind in one of the files that are shipped.
func manifest(t *testing.T, file, kind string) object {
	t.Helper()
	text, err := os.Open(filepath.Join("../../deploy/kubernetes", file))
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	for decoder := yaml.NewDecoder(text); ; {
		var found object
		if err := decoder.Decode(&found); errors.Is(err, io.EOF) {
			t.Fatalf("%s has no %s", file, kind)
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if found["kind"] == kind {
			return found
		}
	}
}

// template is the pod that a controller of the file would make.
func template(t *testing.T, file, controller string) object {
	t.Helper()
	return manifest(t, file, controller)["spec"].(object)["template"].(object)["spec"].(object)
}

// startProxy runs the proxy's pod. What a control plane would look up is written into it: the settings, the authority and
// the volume.
func (n *node) startProxy() {
	n.t.Helper()
	spec := template(n.t, "proxy.yaml", "StatefulSet")
	delete(spec, "serviceAccountName")
	container := spec["containers"].([]any)[0].(object)
	delete(container, "envFrom")
	settings := manifest(n.t, "proxy.yaml", "ConfigMap")["data"].(object)
	for name, value := range map[string]string{"REGISTRIES": n.origin.host, "UPSTREAM_CA_FILE": "/authority/upstream.crt", "CACHE_MIN_FREE": "1m"} {
		settings[name] = value
	}
	for name, value := range settings {
		container["env"] = append(container["env"].([]any), object{"name": name, "value": value})
	}
	onNode := func(name, path string) object { return object{"name": name, "hostPath": object{"path": path}} }
	volumes := []any{onNode("authority", nodeFiles+"/authority"), onNode("cache", "/var/lib/cache")}
	for _, volume := range spec["volumes"].([]any) {
		if volume.(object)["name"] != "authority" {
			volumes = append(volumes, volume)
		}
	}
	spec["volumes"] = volumes
	n.write("proxy", spec)
	s := n.await("proxy", "ready", func(s podStatus, _ bool) bool { return s.is("Ready") })
	n.resolve("container-registry-proxy.default.svc.cluster.local", s.PodIP)
}

// makeAuthority makes what would be a secret, readable as the manifest says, and the directory of the cache.
func (n *node) makeAuthority(world *registrytest.World) {
	n.t.Helper()
	writeFile(n.t, filepath.Join(n.files, "authority/upstream.crt"), string(world.CAPEM()))
	n.run(`mkdir -p /var/lib/cache && chown 65532:65532 /var/lib/cache && cd ` + nodeFiles + `/authority &&
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=the cluster's authority" -keyout ca.key -out ca.crt &&
chown -R 0:65532 . && chmod 440 *`)
}

// setUp runs the pod that sets the node up.
func (n *node) setUp() {
	n.t.Helper()
	n.write("nodes", template(n.t, "nodes.yaml", "DaemonSet"))
	n.await("nodes", "ready", func(s podStatus, _ bool) bool { return s.is("Ready") })
	n.awaitThat("nodes", "done with the node", succeeds(n.command("test -e /etc/containerd/certs.d/_default/hosts.toml"), n.t))
}

// write has the kubelet run a pod.
func (n *node) write(name string, spec object) {
	n.t.Helper()
	pod, err := json.Marshal(object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": name, "namespace": "default"}, "spec": spec})
	if err != nil {
		n.t.Fatal(err)
	}
	hidden := writeFile(n.t, filepath.Join(n.files, name+".json"), string(pod))
	if err := os.Rename(hidden, n.podFile(name)); err != nil { // the kubelet sees all of it at once
		n.t.Fatal(err)
	}
}

func (n *node) podFile(name string) string { return filepath.Join(n.files, "pods", name+".json") }

// remove has the kubelet end a pod, and waits until nothing of it runs. What has ended is cleared away a minute later.
func (n *node) remove(name string) {
	n.t.Helper()
	if err := os.Remove(n.podFile(name)); err != nil {
		n.t.Fatal(err)
	}
	n.await(name, "gone", func(_ podStatus, ok bool) bool { return !ok })
	const running = `for id in $(ctr --namespace k8s.io containers list --quiet 'labels."io.kubernetes.pod.name"==%s-node'); do
ctr --namespace k8s.io tasks list | grep "^$id .*RUNNING" || :
done`
	n.awaitThat(name, "at its end", func() error {
		if left := n.run(fmt.Sprintf(running, name)); left != "" {
			return errors.New(left)
		}
		return nil
	})
}

// logs are what the containers of a pod have said.
func (n *node) logs(name string) string {
	n.t.Helper()
	return n.run("cat /var/log/pods/default_" + name + "-node_*/*/*.log 2>/dev/null || :")
}

// runs is a pod of the registry's image.
func (n *node) runs(name string) {
	n.t.Helper()
	n.write(name, object{"restartPolicy": "Never", "containers": []any{object{"name": "app", "image": n.origin.reference()}}})
}

// pull has the node run the registry's image, of which it has nothing, and returns how many blobs the registry was asked for.
func (n *node) pull(name string) int {
	n.t.Helper()
	asked := n.origin.blobGETs()
	n.runs(name)
	s := n.await(name, "at its end", func(s podStatus, _ bool) bool { return s.Phase == "Succeeded" })
	if said := n.logs(name); !strings.Contains(said, "hello from a layer") {
		n.t.Errorf("%s: the image says %q", name, said)
	}
	if id := s.ContainerStatuses[0].ImageID; !strings.HasSuffix(id, string(n.origin.image.Digest)) {
		n.t.Errorf("%s: the image is %s, want %s", name, id, n.origin.image.Digest)
	}
	n.remove(name)
	n.run("ctr --namespace k8s.io images remove --sync $(ctr --namespace k8s.io images list --quiet | grep -e " + n.origin.host + " -e " + string(n.origin.image.Config.Digest) + ")")
	return n.origin.blobGETs() - asked
}

// wantNoPull checks that the node, left alone, cannot pull.
func (n *node) wantNoPull(name string) {
	n.t.Helper()
	n.runs(name)
	n.await(name, "refused its image", func(s podStatus, _ bool) bool {
		return len(s.ContainerStatuses) > 0 && strings.Contains(s.ContainerStatuses[0].State.Waiting.Reason, "ImagePull")
	})
	n.remove(name)
}
