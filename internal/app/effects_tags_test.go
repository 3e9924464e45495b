package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/registrytest"
)

// configured is a house with a YAML file.
func configured(t *testing.T, world *registrytest.World, yaml string, environ ...string) *house {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	h := start(t, world, append(environ, "CONFIG_FILE="+path)...)
	h.config = path
	return h
}

// effectTags has a rule of each kind, and what it is for told apart from what it is not for.
func effectTags(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	for _, tag := range []string{"fresh", "kept", "dropped", "strict", "lenient", "dev-1", "early"} {
		reg.PushImage("app", tag, layers(7, 1, 1000)...)
	}
	h := configured(t, reg.World, `
registries: `+reg.Host()+`
tags:
  - {registry: other.test, fresh_for: 1h}
  - {registry: `+reg.Host()+`, repository: a*, tag: fresh, fresh_for: 1h}
  - {tag: kept, on_missing: keep}
  - {tag: /^str/, stale: never}
  - {tag: "dev-?", never_cache: true}
  - {tag: early, fresh_for: 0, stale_while_revalidate: 1h}
`)
	for _, tag := range []string{"fresh", "kept", "dropped", "strict", "lenient", "dev-1", "early"} {
		want := "MISS"
		if tag == "dev-1" {
			want = "BYPASS"
		}
		if p := h.pull(reg, "app", tag); p.answers[0].outcome() != want {
			t.Errorf("first pull of %s: %s, want %s", tag, p.answers[0].outcome(), want)
		}
	}
	reg.Forget()
	tiers{"fresh": {"manifest-rule", false}, "kept": {"manifest-default-disabled", true}, "lenient": {"manifest-default-disabled", true}}.check(t, h, reg)
	if p := h.pull(reg, "app", "early"); p.answers[0].outcome() != "STALE" {
		t.Errorf("early: %s, want STALE", p.answers[0].outcome())
	}
	reg.Await(1, "HEAD", "/manifests/early")
	reg.Delete("app", "kept", "")
	reg.Delete("app", "dropped", "")
	ask := func(tag string) answer {
		t.Helper()
		return h.ask("GET", reg.URL()+"/v2/app/manifests/"+tag, "Accept", strings.Join(accepted, ", "))
	}
	ask("kept").expect(t, 200)
	ask("dropped").expect(t, 404)
	reg.Set(func(f *registrytest.Faults) { f.Registry.Status = 500 })
	ask("strict").expect(t, 500)
	ask("lenient").expect(t, 200)
	ask("fresh").expect(t, 200)
	ask("dev-1").expect(t, 500)
}

// effectAllowPCRE: a pattern of PCRE's is refused with the way around it, or works.
func effectAllowPCRE(t *testing.T) {
	environ := []string{"ENABLE_MANIFEST_CACHE=true", "MANIFEST_CACHE_PRIMARY_REGEX=(?!latest$)", "MANIFEST_CACHE_DEFAULT_TIME=0"}
	if _, err := config.Load(append(environ, "CACHE_DIRECTORY="+t.TempDir(), "CA_DIRECTORY="+t.TempDir())); err == nil || !strings.Contains(err.Error(), "ALLOW_PCRE=true") {
		t.Errorf("a look-ahead: %v, want an error that names ALLOW_PCRE=true", err)
	}
	h, reg := tagHouse(t, append(environ, "ALLOW_PCRE=true")...)
	tiers{"stable": {"manifest-primary", false}, "1.2.3": {"manifest-primary", false}, "latest": {"manifest-default", true}}.check(t, h, reg)
}
