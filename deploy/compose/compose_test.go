package compose_test

import (
	"maps"
	"os"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"

	"container-registry-proxy/internal/config"
)

// Settings that files of deploy/ suggest have to be right, and the file of compose is as its specification has it, as far
// as it goes.
func TestSettings(t *testing.T) {
	t.Parallel()
	var compose struct {
		Services map[string]struct {
			Image, Restart  string
			Ports, Volumes  []string
			Environment     map[string]string
			ReadOnly        bool `yaml:"read_only"`
			Tmpfs           []string
			CapDrop         []string `yaml:"cap_drop"`
			CapAdd          []string `yaml:"cap_add"`
			SecurityOpt     []string `yaml:"security_opt"`
			StopGracePeriod string   `yaml:"stop_grace_period"`
		}
		Volumes map[string]any
	}
	decode(t, "compose.yaml", &compose)
	service := compose.Services["container-registry-proxy"]
	for _, volume := range []string{"cache:/registry_proxy_mirror_cache", "authority:/ca"} {
		if !slices.Contains(service.Volumes, volume) {
			t.Errorf("volumes are %q, want %s", service.Volumes, volume)
		}
	}
	wantSettings(t, "compose.yaml", service.Environment)

	var manifests struct {
		Kind string
		Data map[string]string
	}
	file, err := os.Open("../kubernetes/proxy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for decoder := yaml.NewDecoder(file); manifests.Kind != "ConfigMap"; {
		if err := decoder.Decode(&manifests); err != nil {
			t.Fatal(err)
		}
	}
	wantSettings(t, "proxy.yaml", manifests.Data)

	var values struct{ Settings map[string]string }
	data, err := os.ReadFile("../chart/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, &values); err != nil {
		t.Fatal(err)
	}
	wantSettings(t, "values.yaml", values.Settings)
	if !maps.Equal(values.Settings, manifests.Data) {
		t.Errorf("the chart's settings are %v, the manifests' %v", values.Settings, manifests.Data)
	}
}

func decode(t *testing.T, name string, into any) {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	decoder := yaml.NewDecoder(file)
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func wantSettings(t *testing.T, name string, settings map[string]string) {
	t.Helper()
	if len(settings) == 0 {
		t.Fatalf("%s has no settings", name)
	}
	environ := []string{"CACHE_DIRECTORY=" + t.TempDir(), "CA_DIRECTORY=" + t.TempDir()}
	for key, value := range settings {
		environ = append(environ, key+"="+value)
	}
	if _, err := config.Load(environ); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}
