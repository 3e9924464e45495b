package kube

import (
	"slices"
	"testing"

	core "k8s.io/api/core/v1"
)

// Hardened fails a test unless a pod has no rights that it does not need: a node's set-up may change its root directory,
// the proxy may do nothing in particular.
func Hardened(t testing.TB, pod core.PodTemplateSpec, node bool) {
	t.Helper()
	if pod.Spec.AutomountServiceAccountToken == nil || *pod.Spec.AutomountServiceAccountToken {
		t.Error("the pod gets a token of the cluster, which it does not need")
	}
	if pod.Spec.HostNetwork || pod.Spec.HostPID {
		t.Error("the pod shares the node's network or processes")
	}
	for _, c := range pod.Spec.Containers {
		s := c.SecurityContext
		if s == nil || s.Privileged != nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Errorf("container %s may more than it needs: %+v", c.Name, s)
			continue
		}
		want := []core.Capability{}
		if node {
			want = []core.Capability{"SYS_CHROOT", "DAC_OVERRIDE"}
		}
		if !slices.Equal(s.Capabilities.Drop, []core.Capability{"ALL"}) || !slices.Equal(s.Capabilities.Add, want) {
			t.Errorf("container %s drops %v and adds %v, want ALL and %v", c.Name, s.Capabilities.Drop, s.Capabilities.Add, want)
		}
		if !node && (pod.Spec.SecurityContext.RunAsNonRoot == nil || *pod.Spec.SecurityContext.RunAsUser != 65532) {
			t.Errorf("container %s runs as root", c.Name)
		}
	}
}
