package config

import (
	"fmt"
	"slices"
	"strings"
)

// withoutEffect are settings of the originals that mean nothing here, with the originals' default: to set that is to
// say nothing. A name that ends in an underscore stands for all that begin so.
var withoutEffect = map[string]string{
	"CACHE_KEYS_ZONE":         "15m",
	"CACHE_LOADER_":           "",
	"CACHE_LOADER_FILES":      "100",
	"CACHE_LOADER_SLEEP":      "50ms",
	"CACHE_LOADER_THRESHOLD":  "200ms",
	"CACHE_MANAGER_":          "",
	"CACHE_MANAGER_FILES":     "100",
	"CACHE_MANAGER_SLEEP":     "250ms",
	"CACHE_MANAGER_THRESHOLD": "1000ms",
	"CACHE_VALID_TIME":        "60d",
	"CA_SRL_FILE":             "/ca/ca.srl",
	"DEBUG_HUB":               "false",
	"LIVELINESS_REPOS":        "",
	"PROXY_BUFFERING":         "true",
	"SLOW_CACHE_":             "",
	"SLOW_TIER_":              "",
	"SLOW_TIER_ENABLED":       "false",
	"WORKER_PROCESSES":        "auto",
}

// notice collects what must be said at start about a valid configuration.
func (l *loader) notice() {
	l.noticeWithoutEffect()
	l.noticeManifestCache()
	l.noticeInactive()
	for _, setting := range []string{envCredentials, "credentials"} {
		if hosts := l.onlyWithCredentials(setting); len(hosts) > 0 {
			l.say("%s: named in %s and not in REGISTRIES: intercepted too", strings.Join(hosts, " "), setting)
		}
	}
	l.noticeCredentials()
	l.noticeUpstreams()
	if !l.cfg.VerifyTLS {
		l.say("VERIFY_SSL=false: whoever is between here and a host of REGISTRIES or AUTH_REGISTRIES can read its credentials and change what is pulled by tag; a registry's own authority belongs into UPSTREAM_CA_FILE instead")
	}
	for _, prefix := range l.cfg.AllowedNetworks {
		if prefix.Bits() == 0 {
			l.say("ALLOWED_NETWORKS holds %s: every client reaches this machine's own services and the metadata service through the proxy", prefix)
		}
	}
}

func (l *loader) say(format string, args ...any) {
	l.cfg.Notices = append(l.cfg.Notices, fmt.Sprintf(format, args...))
}

func (l *loader) noticeWithoutEffect() {
	var names []string
	for name, value := range l.env {
		original, known := withoutEffect[name]
		for prefix := range withoutEffect {
			known = known || strings.HasSuffix(prefix, "_") && strings.HasPrefix(name, prefix)
		}
		if known && strings.TrimSpace(value) != "" && value != original {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		slices.Sort(names)
		l.say("%s: set, but without effect here (docs/configuration.md says why)", strings.Join(names, " "))
	}
}

func (l *loader) noticeManifestCache() {
	if l.cfg.ManifestCache.Enabled {
		return
	}
	var names []string
	for _, s := range settings() {
		if strings.HasPrefix(s.env, "MANIFEST_CACHE_") && l.origin[s.env].set && l.origin[s.env].text != s.fallback {
			names = append(names, s.env)
		}
	}
	if len(names) > 0 {
		l.say("%s: set, but without effect while ENABLE_MANIFEST_CACHE is not true: every tag is revalidated each time", strings.Join(names, " "))
	}
}

func (l *loader) noticeInactive() {
	a, b := l.origin[envInactiveTime], l.origin[envInactive]
	if a.set && b.set && a.text != b.text {
		l.say("%s=%s wins over %s=%s", envInactiveTime, show(a.text), envInactive, show(b.text))
	}
}

// onlyWithCredentials are the hosts that are intercepted for their credential in the setting alone.
func (l *loader) onlyWithCredentials(setting string) []string {
	var hosts []string
	for _, c := range l.cfg.Credentials {
		host, plain := strings.CutPrefix(c.Host, "http://")
		listed := l.listed.Match(host) || plain && l.listed.MatchPlain(host)
		from := map[bool]string{true: "credentials", false: envCredentials}[strings.HasPrefix(c.Name, "credentials[")]
		if host != "" && from == setting && !listed && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}
