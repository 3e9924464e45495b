package app_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

const manual = "../../docs/configuration.md"

// effects has for every setting of the manual a test that sees, from outside of a running proxy, what the setting does.
func effects() map[string]func(*testing.T) {
	return map[string]func(*testing.T){
		"REGISTRIES":                effectRegistries,
		"AUTH_REGISTRIES":           effectAuthRegistries,
		"AUTH_REGISTRIES_DELIMITER": effectEntryDelimiter,
		"AUTH_REGISTRY_DELIMITER":   effectPartDelimiter,
		"AUTH_CONFIG_FILE":          effectAuthConfigFile,
		"credentials":               effectCredentials,
		"token_services":            effectTokenServices,
		"ALLOW_OWN_AUTH":            effectAllowOwnAuth,
		"PARALLEL_DOWNLOADS":        effectParallelDownloads,
		"UPSTREAM_CONCURRENCY":      effectUpstreamConcurrency,
		"UPSTREAM_RATE":             effectUpstreamRate,
		"HTTP_PROXY":                effectHTTPProxy,
		"HTTPS_PROXY":               effectHTTPSProxy,
		"NO_PROXY":                  effectNoProxy,
		"CLIENT_NETWORKS":           effectClientNetworks,
		"CLIENT_USERS_FILE":         effectClientUsersFile,
		"CLIENT_CA_FILE":            effectClientCAFile,
		"clients":                   effectClients,
		"VERIFY_SSL":                effectVerifySSL,
		"UPSTREAM_CA_FILE":          effectUpstreamCAFile,

		"CACHE_MAX_SIZE":                 effectMaxSize,
		"CACHE_MIN_FREE":                 effectMinFree,
		"CACHE_INACTIVE_TIME":            effectInactiveTime,
		"CACHE_INACTIVE":                 effectInactive,
		"CACHE_DIRECTORY":                effectCacheDirectory,
		"ABANDONED_DOWNLOADS":            effectAbandonedDownloads,
		"ENABLE_MANIFEST_CACHE":          effectManifestCache,
		"MANIFEST_CACHE_PRIMARY_REGEX":   effectPrimaryRegex,
		"MANIFEST_CACHE_PRIMARY_TIME":    effectPrimaryTime,
		"MANIFEST_CACHE_SECONDARY_REGEX": effectSecondaryRegex,
		"MANIFEST_CACHE_SECONDARY_TIME":  effectSecondaryTime,
		"MANIFEST_CACHE_DEFAULT_TIME":    effectDefaultTime,

		"tags":       effectTags,
		"ALLOW_PCRE": effectAllowPCRE,

		"pins":            effectPins,
		"warm":            effectWarm,
		"PREFETCH_LAYERS": effectPrefetch,

		"RATE_LIMIT_RESERVE": effectRateLimitReserve,
		"UPSTREAM_GIVE_UP":   effectGiveUp,

		"ALLOW_PUSH":               effectAllowPush,
		"ALLOW_PUSH_WITH_OWN_AUTH": effectAllowPushWithOwnAuth,
		"PROXY_REQUEST_BUFFERING":  effectRequestBuffering,

		"LISTEN":       effectListen,
		"ADMIN_LISTEN": effectAdminListen,
		"CA_DIRECTORY": effectCADirectory,
		"CA_CRT_FILE":  effectCAFiles,
		"CA_KEY_FILE":  effectCAKeyFile,
		"TLS_CRT_FILE": effectTLSFiles,
		"TLS_KEY_FILE": effectTLSKeyFile,
		"TLS_NAMES":    effectTLSNames,
		"HTTP2":        effectHTTP2,
		"RUN_AS":       effectRunAs,
		"LOG_LEVEL":    effectLogLevel,
		"LOG_FORMAT":   effectLogFormat,
		"DEBUG":        effectDebug,
		"DEBUG_NGINX":  effectDebugNginx,
		"CONFIG_FILE":  effectConfigFile,

		"SETUP_ADDRESS":         effectSetupAddress,
		"DEFAULT_REGISTRY":      effectDefaultRegistry,
		"MIRROR_ALL_REGISTRIES": effectMirrorAll,

		"ALLOWED_NETWORKS":        effectAllowedNetworks,
		"TUNNEL_PORTS":            effectTunnelPorts,
		"REFUSE_PRIVATE":          effectRefusePrivate,
		"DISABLE_IPV6":            effectDisableIPv6,
		"FORCE_UPSTREAM_HTTP_1_1": effectForceHTTP11,

		"SEND_TIMEOUT":                  effectSendTimeout,
		"CLIENT_BODY_TIMEOUT":           effectClientBodyTimeout,
		"CLIENT_HEADER_TIMEOUT":         effectClientHeaderTimeout,
		"KEEPALIVE_TIMEOUT":             effectKeepAliveTimeout,
		"PROXY_READ_TIMEOUT":            effectProxyReadTimeout,
		"PROXY_CONNECT_TIMEOUT":         effectProxyConnectTimeout,
		"PROXY_SEND_TIMEOUT":            effectProxySendTimeout,
		"PROXY_CONNECT_READ_TIMEOUT":    effectTunnelReadTimeout,
		"PROXY_CONNECT_CONNECT_TIMEOUT": effectTunnelConnectTimeout,
		"PROXY_CONNECT_SEND_TIMEOUT":    effectTunnelSendTimeout,
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for name, effect := range effects() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			effect(t)
		})
	}
}

// A setting that nobody has seen at work is a promise; so is one that only the tests know.
func TestEverySettingOfTheManualIsSeenAtWork(t *testing.T) {
	t.Parallel()
	documented, _ := readManual(t)
	seen := effects()
	for _, name := range documented {
		if seen[name] == nil {
			t.Errorf("%s is in %s and no test of effects sees what it does", name, manual)
		}
	}
	for name := range seen {
		if !slices.Contains(documented, name) {
			t.Errorf("%s has a test of its effect and is not in %s", name, manual)
		}
	}
}

// readManual returns the settings that the manual documents, by their name in the environment or in the file where
// there is none, and those that it says are without effect.
func readManual(t *testing.T) (documented, without []string) {
	t.Helper()
	content, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`([A-Za-z0-9_]+\\*?)`")
	table := ""
	for line := range strings.Lines(string(content)) {
		cells := strings.Split(line, "|")
		switch {
		case len(cells) < 3:
			table = ""
		case table == "":
			table = strings.TrimSpace(line)
		case strings.HasPrefix(table, "| Environment | YAML |"):
			if found := name.FindStringSubmatch(cells[1] + cells[2]); found != nil {
				documented = append(documented, found[1])
			}
		case strings.HasPrefix(table, "| Environment | Why |"):
			for _, found := range name.FindAllStringSubmatch(cells[1], -1) {
				without = append(without, found[1])
			}
		}
	}
	if len(documented) < 40 || len(without) < 8 {
		t.Fatalf("%s: found %d settings and %d without effect: have its tables changed?", manual, len(documented), len(without))
	}
	return documented, without
}

// What the originals know and we do not is named once, in one line, and nothing else changes.
func TestSettingsWithoutEffectAreNamedOnceAtStart(t *testing.T) {
	t.Parallel()
	_, without := readManual(t)
	values := map[string]string{}
	for _, name := range without {
		values[strings.Replace(name, "*", "SOMETHING", 1)] = "on"
	}
	var environ []string
	for name, value := range values {
		environ = append(environ, name+"="+value)
	}
	reg := registrytest.New(t, registrytest.Config{})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	h := start(t, reg.World, append(environ, "REGISTRIES="+reg.Host())...)
	h.pull(reg, "app", "1").wantOutcomes(t, "MISS", "MISS")
	for _, name := range slices.Sorted(maps.Keys(values)) {
		naming := filter(h.log.lines(t), func(l line) bool { return slices.Contains(strings.FieldsFunc(l.Msg, isSeparator), name) })
		if len(naming) != 1 || naming[0].Level != "WARN" || !strings.Contains(naming[0].Msg, "without effect") {
			t.Errorf("%s is set: %d lines name it, want one warning that it is without effect: %+v", name, len(naming), naming)
		}
	}
}

func isSeparator(r rune) bool { return r == ' ' || r == ':' || r == ',' || r == '=' }
