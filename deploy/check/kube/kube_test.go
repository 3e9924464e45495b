package kube

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
)

func read(t *testing.T, name string) map[string][]any {
	t.Helper()
	file, err := os.ReadFile(filepath.Join("../../kubernetes", name))
	if err != nil {
		t.Fatal(err)
	}
	objects, err := Decode(file)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return objects
}

func TestManifests(t *testing.T) {
	t.Parallel()
	objects := read(t, "proxy.yaml")
	for kind, want := range map[string]int{"StatefulSet": 1, "Service": 2, "ConfigMap": 1, "ServiceAccount": 1, "PodDisruptionBudget": 1, "NetworkPolicy": 1} {
		if got := len(objects[kind]); got != want {
			t.Errorf("%d of kind %s, want %d", got, kind, want)
		}
	}
	set := objects["StatefulSet"][0].(*apps.StatefulSet)
	Hardened(t, set.Spec.Template, false)
	proxy := set.Spec.Template.Spec.Containers[0]
	if proxy.LivenessProbe.HTTPGet.Path != "/healthz" || proxy.LivenessProbe.HTTPGet.Port.StrVal != "proxy" {
		t.Errorf("liveness is asked at %v", proxy.LivenessProbe.HTTPGet)
	}
	if got := fmt.Sprint(proxy.ReadinessProbe.Exec.Command); got != "[/usr/bin/container-registry-proxy healthcheck]" {
		t.Errorf("readiness is asked by %s", got)
	}
	if !slices.Contains(proxy.Env, core.EnvVar{Name: "ADMIN_LISTEN", Value: ":3129"}) {
		t.Errorf("the operator's listener is not on :3129: %v", proxy.Env)
	}
	wall := objects["NetworkPolicy"][0].(*networking.NetworkPolicy)
	for _, rule := range wall.Spec.Ingress {
		for _, port := range rule.Ports {
			if port.Port.IntVal == 3129 && len(rule.From) == 0 {
				t.Error("everyone reaches the operator's port")
			}
		}
	}
	for _, object := range objects["Service"] {
		service := object.(*core.Service)
		for name, value := range service.Spec.Selector {
			if set.Spec.Template.Labels[name] != value {
				t.Errorf("service %s selects %s=%s, which no pod has", service.Name, name, value)
			}
		}
	}
}

func TestNodes(t *testing.T) {
	t.Parallel()
	set := read(t, "nodes.yaml")["DaemonSet"][0].(*apps.DaemonSet)
	Hardened(t, set.Spec.Template, true)
	if undo := strings.Join(set.Spec.Template.Spec.Containers[0].Lifecycle.PreStop.Exec.Command, " "); !strings.Contains(undo, "--undo") {
		t.Errorf("before it stops it runs %q, want the undo", undo)
	}
	read(t, "monitor.yaml")
}

// A check that takes everything checks nothing.
func TestDecodeIsStrict(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"apiVersion: v1\nkind: Service\nspec:\n  port: 1\n", "apiVersion: v1\nkind: Service\nspec:\n  ports: [{port: one}]\n",
		"apiVersion: v1\nkind: Service\nkind: Service\n", "apiVersion: v2\nkind: Service\n", "a: [",
	} {
		if objects, err := Decode([]byte(text)); err == nil {
			t.Errorf("%q is taken for %v", text, objects)
		}
	}
}
