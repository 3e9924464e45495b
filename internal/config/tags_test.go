package config

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"container-registry-proxy/internal/freshness"
)

func TestRulesForTags(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, yamlFileOf(`
tags:
  - {registry: docker.io, repository: library/*, tag: latest, fresh_for: 10m, stale_while_revalidate: 1h}
  - {tag: '/^v[0-9]+$/', on_missing: keep, stale: never}
  - {registry: quay.io, never_cache: true}
  - {registry: quay.io, never_cache: false, on_missing: pass, stale: allowed, fresh_for: 0}
`))
	want := []freshness.Rule{
		{Registry: "docker.io", Repository: "library/*", Tag: "latest", FreshFor: new(10 * time.Minute), StaleWhileRevalidate: time.Hour},
		{Tag: "/^v[0-9]+$/", KeepMissing: true, NeverStale: true},
		{Registry: "quay.io", NeverCache: true},
		{Registry: "quay.io", FreshFor: new(time.Duration(0))},
	}
	if diff := cmp.Diff(want, cfg.ManifestCache.Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	if cfg := mustLoad(t, yamlFileOf("tags:\n")); len(cfg.ManifestCache.Rules) != 0 {
		t.Errorf("no rules are %+v", cfg.ManifestCache.Rules)
	}
}

func TestBadRulesForTags(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ yaml, name, want string }{
		{"tags: latest", "tags", "want a list of rules"},
		{"tags: [latest]", "tags[0]", "want a list of rules"},
		{"tags: [{tags: latest}]", "tags", "unknown field: want registry"},
		{"tags: [{tag: [a, b]}]", "tag", "want one value"},
		{"tags: [{fresh_for: soon}]", "fresh_for", "soon is not a time"},
		{"tags: [{stale_while_revalidate: -1h}]", "stale_while_revalidate", "is not a time"},
		{"tags: [{on_missing: drop}]", "on_missing", "want pass or keep"},
		{"tags: [{stale: sometimes}]", "stale", "want allowed or never"},
		{"tags: [{never_cache: perhaps}]", "never_cache", "want true or false"},
		{"tags: [{never_cache: true, fresh_for: 1h}]", "tags[0]", "never_cache alone"},
		{"tags: [{stale: never, stale_while_revalidate: 1h}]", "tags[0]", "want one of them"},
		{`tags: [{tag: "/(?!a)/"}]`, "tags[0]", "ALLOW_PCRE=true"},
		{"tags: [{tag: /v1}]", "tags[0]", "slash at its end"},
		{"tags: [{registry: quay.io/app}]", "tags[0]", "want a host"},
	} {
		_, err := loadAt(yamlFileOf(tt.yaml))
		if err == nil || !strings.Contains(err.Error(), tt.name) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), ".yaml:1") {
			t.Errorf("%s: %v, want its line, %q and %q", tt.yaml, err, tt.name, tt.want)
		}
	}
}

func TestTheManualsRulesLoad(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(content), "```yaml\ntags:\n")
	example, _, _ := strings.Cut(rest, "```")
	if cfg := mustLoad(t, yamlFileOf("tags:\n"+example)); !found || len(cfg.ManifestCache.Rules) != 4 {
		t.Errorf("the example gives %+v", cfg.ManifestCache.Rules)
	}
}

func TestImagesThatAreKeptAndWarm(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, yamlFileOf(`
pins: [nginx, 'quay.io/org/app:1.2']
warm:
  - images: docker.io/library/alpine:3.20
    platforms: [linux/amd64, all]
    every: 6h
  - images: [a, b]
`))
	if pins := cfg.ManifestCache.Pins; len(pins) != 2 || pins[0].String() != "docker.io/library/nginx:latest" || pins[1].String() != "quay.io/org/app:1.2" {
		t.Errorf("pins %v", pins)
	}
	if w := cfg.Warm; len(w) != 2 || w[0].Every != 6*time.Hour || len(w[0].Platforms) != 2 || len(w[1].Images) != 2 || w[1].Every != 24*time.Hour {
		t.Errorf("warm %+v", w)
	}
	for yaml, want := range map[string]string{
		"pins: {a: b}": "want a list of images", "pins: [Nginx]": "docker.io/library/alpine:3.20", "warm: nginx": "want a list of lists", "warm: [nginx]": "want a list of lists",
		"warm: [{every: 6h}]": "no images", "warm: [{images: [a], every: 1s}]": "too often", "warm: [{images: [a], every: soon}]": "not a time",
		"warm: [{images: [a], platforms: [amd64]}]": "linux/arm/v7", "warm: [{images: [a], at: 3h}]": "unknown field", "warm: [{images: [A]}]": "component",
	} {
		if _, err := loadAt(yamlFileOf(yaml)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), ".yaml:1") {
			t.Errorf("%s: %v, want its line and %q", yaml, err, want)
		}
	}
}
