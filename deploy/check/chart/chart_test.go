// Package chart checks the Helm chart with Helm itself, as a library: lint, template, and what comes out of it as the
// Kubernetes API reads it. Its invariant: every switch of the values is turned once.
package chart

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"container-registry-proxy/deploy/check/kube"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
)

const dir = "../../chart"

// template is "helm template proxy deploy/chart" with these values, as objects by their kind.
func template(values map[string]any) (map[string][]any, error) {
	chart, err := loader.Load(dir)
	if err != nil {
		return nil, err
	}
	all, err := util.ToRenderValues(chart, values, common.ReleaseOptions{Name: "proxy", Namespace: "default", IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(chart, all)
	if err != nil {
		return nil, err
	}
	objects := map[string][]any{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".txt") {
			continue
		}
		found, err := kube.Decode([]byte(files[name]))
		if err != nil {
			return nil, err
		}
		for kind, list := range found {
			objects[kind] = append(objects[kind], list...)
		}
	}
	return objects, nil
}

type values = map[string]any

func TestTemplate(t *testing.T) {
	t.Parallel()
	everything := values{
		"authority": values{"secret": "ca"}, "settingsSecret": "logins", "serviceMonitor": values{"enabled": true, "labels": values{"release": "prometheus"}},
		"nodes":       values{"enabled": true, "nodeSelector": values{"pool": "a"}},
		"service":     values{"type": "NodePort", "nodePort": 31280, "annotations": values{"a": "b"}},
		"persistence": values{"storageClass": "fast"}, "networkPolicy": values{"clients": []any{values{"ipBlock": values{"cidr": "10.0.0.0/8"}}}},
		"imagePullSecrets": []any{values{"name": "pull"}}, "podAnnotations": values{"a": "b"}, "nodeSelector": values{"pool": "a"},
		"tolerations": []any{values{"operator": "Exists"}}, "affinity": values{"nodeAffinity": values{}},
	}
	for name, tt := range map[string]struct {
		values values
		kinds  string
	}{
		"defaults":   {nil, "ConfigMap NetworkPolicy PodDisruptionBudget Service ServiceAccount StatefulSet"},
		"everything": {everything, "ConfigMap DaemonSet NetworkPolicy PodDisruptionBudget Service ServiceAccount ServiceMonitor StatefulSet"},
		"little": {values{
			"networkPolicy": values{"enabled": false}, "podDisruptionBudget": values{"enabled": false}, "persistence": values{"enabled": false},
		}, "ConfigMap Service ServiceAccount StatefulSet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if messages := lint.RunAll(dir, tt.values, "default").Messages; slices.ContainsFunc(messages, func(m support.Message) bool { return m.Severity > 1 }) {
				t.Errorf("helm lint: %v", messages)
			}
			objects, err := template(tt.values)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(slices.Sorted(maps.Keys(objects)), " "); got != tt.kinds {
				t.Errorf("there is %s, want %s", got, tt.kinds)
			}
			set := objects["StatefulSet"][0].(*apps.StatefulSet)
			kube.Hardened(t, set.Spec.Template, false)
			for _, nodes := range objects["DaemonSet"] {
				kube.Hardened(t, nodes.(*apps.DaemonSet).Spec.Template, true)
			}
		})
	}
}

// A node is given the one address or the other: the set-up refuses both together.
func TestAddressOfNodes(t *testing.T) {
	t.Parallel()
	for address, byAddress := range map[string]bool{"": true, "https://proxy.example.com:3128": false} {
		settings := values{}
		if address != "" {
			settings["SETUP_ADDRESS"] = address
		}
		objects, err := template(values{"settings": settings, "nodes": values{"enabled": true}})
		if err != nil {
			t.Fatal(err)
		}
		args := objects["DaemonSet"][0].(*apps.DaemonSet).Spec.Template.Spec.Containers[0].Args
		if slices.Contains(args, "--by-address") != byAddress {
			t.Errorf("with SETUP_ADDRESS=%s nodes are set up by %q", address, args)
		}
		if got := objects["ConfigMap"][0].(*core.ConfigMap).Data["SETUP_ADDRESS"]; got != address {
			t.Errorf("the proxy has SETUP_ADDRESS=%s, want %s", got, address)
		}
	}
}

func TestWrongValues(t *testing.T) {
	t.Parallel()
	for want, wrong := range map[string]values{
		"replica":                  {"replica": 2},
		"lower_case":               {"settings": values{"lower_case": "x"}},
		"want string":              {"settings": values{"CACHE_MAX_SIZE": 45}},
		"networkPolicy.enabled is": {"networkPolicy": values{"enabled": false}, "serviceMonitor": values{"enabled": true}},
	} {
		if _, err := template(wrong); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want an error with %q", wrong, err, want)
		}
	}
}
