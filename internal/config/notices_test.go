package config

import (
	"slices"
	"strings"
	"testing"
)

func TestNothingToSayAboutTheOriginalsDefaults(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, machine{"registry_proxy_mirror_cache": aDirectory, "ca": aDirectory},
		"DEBUG=false", "DEBUG_HUB=false", "DEBUG_NGINX=false", "SLOW_TIER_ENABLED=false", "WORKER_PROCESSES=auto", "PROXY_BUFFERING=true",
		"CACHE_VALID_TIME=60d", "CACHE_KEYS_ZONE=15m", "CACHE_MANAGER_FILES=100", "CACHE_LOADER_SLEEP=50ms", "LIVELINESS_REPOS=", "CACHE_INACTIVE_TIME=60d",
		"MANIFEST_CACHE_PRIMARY_TIME=10m", "VERIFY_SSL=true", "AUTH_REGISTRIES=auth.docker.io:u:p", "CACHE_MAX_SIZE=32g", "PATH=/bin", "CACHE_SOMETHING=1")
	if len(cfg.Notices) != 0 {
		t.Errorf("notices %q, want none", cfg.Notices)
	}
}

func TestSettingsWithoutEffectAreNamedOnce(t *testing.T) {
	t.Parallel()
	set := []string{"CACHE_KEYS_ZONE=50m", "CACHE_LOADER_FILES=200", "CACHE_MANAGER_SLEEP=1s", "CACHE_VALID_TIME=1d", "CA_SRL_FILE=/x/ca.srl", "DEBUG_HUB=true",
		"LIVELINESS_REPOS=a", "PROXY_BUFFERING=false", "SLOW_CACHE_MAX_SIZE=1g", "SLOW_CACHE_MAX_SIZ=1g", "SLOW_TIER_ENABLED=true", "SLOW_TIER_URIS=x", "WORKER_PROCESSES=4"}
	cfg := mustLoad(t, machine{}, set...)
	if len(cfg.Notices) != 1 {
		t.Fatalf("%d notices, want 1: %q", len(cfg.Notices), cfg.Notices)
	}
	for _, entry := range set {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.Contains(strings.FieldsFunc(cfg.Notices[0], func(r rune) bool { return r == ' ' || r == ':' }), name) {
			t.Errorf("notice %q does not name %s", cfg.Notices[0], name)
		}
	}
}

func TestWhatMustBeSaid(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		environ []string
		want    string // "" for nothing
	}{
		{"verification off", []string{"VERIFY_SSL=false"}, "VERIFY_SSL=false"},
		{"a host with a credential alone", []string{"AUTH_REGISTRIES=only.test:u:p quay.io:u:p"}, "only.test: named in AUTH_REGISTRIES and not in REGISTRIES"},
		{"a host that a wildcard names", []string{"REGISTRIES=.example.com", "AUTH_REGISTRIES=a.example.com:u:p"}, ""},
		{"another port than the listed one", []string{"REGISTRIES=reg.test", "AUTH_REGISTRY_DELIMITER=|", "AUTH_REGISTRIES=reg.test:5000|u|p"}, "reg.test:5000: named in AUTH_REGISTRIES"},
		{"tiers while they are off", []string{"MANIFEST_CACHE_PRIMARY_TIME=1d", "MANIFEST_CACHE_DEFAULT_TIME=1d"}, "MANIFEST_CACHE_PRIMARY_TIME MANIFEST_CACHE_DEFAULT_TIME: set, but without effect while ENABLE_MANIFEST_CACHE is not true"},
		{"tiers while they are on", []string{"MANIFEST_CACHE_PRIMARY_TIME=1d", "ENABLE_MANIFEST_CACHE=true"}, ""},
		{"both inactive times", []string{"CACHE_INACTIVE=1d", "CACHE_INACTIVE_TIME=2d"}, "CACHE_INACTIVE_TIME=2d wins over CACHE_INACTIVE=1d"},
		{"the same inactive time twice", []string{"CACHE_INACTIVE=1d", "CACHE_INACTIVE_TIME=1d"}, ""},
		{"everything allowed", []string{"ALLOWED_NETWORKS=0.0.0.0/0"}, "ALLOWED_NETWORKS holds 0.0.0.0/0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := mustLoad(t, machine{}, tt.environ...)
			if tt.want == "" && len(cfg.Notices) > 0 || tt.want != "" && (len(cfg.Notices) != 1 || !says(cfg, tt.want)) {
				t.Errorf("notices %q, want one with %q, or none for that being empty", cfg.Notices, tt.want)
			}
			if says(cfg, "quay.io") {
				t.Errorf("notices %q: quay.io is in REGISTRIES by default", cfg.Notices)
			}
		})
	}
}
