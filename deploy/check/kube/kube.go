// Package kube reads manifests as the Kubernetes API would: its invariant is that a field which the API does not know, or
// knows with another type, is an error. It asks no cluster.
package kube

import (
	"bytes"
	"fmt"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// types are the kinds that are known. A custom resource is here as far as it is used.
var types = map[string]func() any{
	"apps/v1 StatefulSet":                     func() any { return new(apps.StatefulSet) },
	"apps/v1 DaemonSet":                       func() any { return new(apps.DaemonSet) },
	"v1 ConfigMap":                            func() any { return new(core.ConfigMap) },
	"v1 Service":                              func() any { return new(core.Service) },
	"v1 ServiceAccount":                       func() any { return new(core.ServiceAccount) },
	"policy/v1 PodDisruptionBudget":           func() any { return new(policy.PodDisruptionBudget) },
	"networking.k8s.io/v1 NetworkPolicy":      func() any { return new(networking.NetworkPolicy) },
	"monitoring.coreos.com/v1 ServiceMonitor": func() any { return new(serviceMonitor) },
}

type serviceMonitor struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
	Spec       struct {
		Selector  struct{ MatchLabels map[string]string } `json:"selector"`
		Endpoints []struct{ Port, Path, Interval string } `json:"endpoints"`
	} `json:"spec"`
}

// Decode returns the objects of a file by their kind, in order.
func Decode(file []byte) (map[string][]any, error) {
	objects := map[string][]any{}
	for i, document := range bytes.Split(file, []byte("\n---")) {
		var head struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(document, &head); err != nil {
			return nil, fmt.Errorf("document %d: %w", i, err)
		}
		if head.Kind == "" {
			continue // nothing but comments
		}
		name := head.APIVersion + " " + head.Kind
		newObject, ok := types[name]
		if !ok {
			return nil, fmt.Errorf("document %d: kind %s is not known", i, name)
		}
		object := newObject()
		if err := yaml.UnmarshalStrict(document, object); err != nil {
			return nil, fmt.Errorf("document %d: %s: %w", i, name, err)
		}
		objects[head.Kind] = append(objects[head.Kind], object)
	}
	return objects, nil
}
