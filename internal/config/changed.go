package config

import (
	"reflect"
	"slices"
)

// live are the settings that count without a restart, by their name in the environment.
var live = map[string]bool{
	"REGISTRIES": true, "ALLOW_OWN_AUTH": true, "ALLOW_PUSH": true, "ALLOW_PUSH_WITH_OWN_AUTH": true, "PROXY_REQUEST_BUFFERING": true,
	"CLIENT_NETWORKS": true, envClientUsers: true, envClientCA: true, "LOG_LEVEL": true, envDebug: true, envDebugNginx: true,
	"DEFAULT_REGISTRY": true, "MIRROR_ALL_REGISTRIES": true,
}

// NeedsRestart names the settings in which next differs from c and that count only after a restart.
func (c *Config) NeedsRestart(next *Config) []string {
	var names []string
	for _, s := range settings() {
		if !live[s.env] && c.texts[s.env] != next.texts[s.env] {
			names = append(names, s.env)
		}
	}
	for name, same := range map[string]bool{
		"token_services": reflect.DeepEqual(c.TokenServices, next.TokenServices),
		"tags":           reflect.DeepEqual(c.ManifestCache.Rules, next.ManifestCache.Rules),
		"registries":     reflect.DeepEqual(c.Upstreams, next.Upstreams),
	} {
		if !same {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
