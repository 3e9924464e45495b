package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// originals are the variables that the nginx originals read, with a value that somebody may have set, other than the
// default.
var originals = map[string]string{
	"REGISTRIES": "k8s.gcr.io gcr.io quay.io your.own.registry", "AUTH_REGISTRIES": "quay.io:quay_username:quay_password your.own.registry:username:password",
	"AUTH_REGISTRIES_DELIMITER": " ", "AUTH_REGISTRY_DELIMITER": ":",
	"CACHE_MAX_SIZE": "100g", "CACHE_DIRECTORY": "/mnt/cache", "CACHE_MIN_FREE": "2g", "CACHE_INACTIVE_TIME": "120d",
	"ENABLE_MANIFEST_CACHE": "true", "MANIFEST_CACHE_PRIMARY_REGEX": "(stable|latest)", "MANIFEST_CACHE_PRIMARY_TIME": "5m",
	"MANIFEST_CACHE_SECONDARY_REGEX": `(.*)(\d|\.)+`, "MANIFEST_CACHE_SECONDARY_TIME": "30d", "MANIFEST_CACHE_DEFAULT_TIME": "2h",
	"ALLOW_PUSH": "true", "ALLOW_OWN_AUTH": "true", "ALLOW_PUSH_WITH_OWN_AUTH": "true", "VERIFY_SSL": "false",
	"PROXY_REQUEST_BUFFERING": "false", "FORCE_UPSTREAM_HTTP_1_1": "true", "DISABLE_IPV6": "true",
	"SEND_TIMEOUT": "90s", "CLIENT_BODY_TIMEOUT": "90s", "CLIENT_HEADER_TIMEOUT": "90s", "KEEPALIVE_TIMEOUT": "90s",
	"PROXY_READ_TIMEOUT": "90s", "PROXY_CONNECT_TIMEOUT": "90s", "PROXY_SEND_TIMEOUT": "90s",
	"PROXY_CONNECT_READ_TIMEOUT": "90s", "PROXY_CONNECT_CONNECT_TIMEOUT": "90s", "PROXY_CONNECT_SEND_TIMEOUT": "90s",
	"CA_CRT_FILE": "/ca/ca.crt", "CA_KEY_FILE": "/ca/ca.key", "CA_SRL_FILE": "/ca/other.srl",
	"DEBUG": "true", "DEBUG_HUB": "true", "DEBUG_NGINX": "true",
	"CACHE_VALID_TIME": "30d", "PROXY_BUFFERING": "false", "WORKER_PROCESSES": "4", "LIVELINESS_REPOS": "quay.io/org/app",
	"CACHE_KEYS_ZONE": "30m", "CACHE_MANAGER_THRESHOLD": "2000ms", "CACHE_MANAGER_SLEEP": "500ms", "CACHE_MANAGER_FILES": "200",
	"CACHE_LOADER_FILES": "200", "CACHE_LOADER_THRESHOLD": "400ms", "CACHE_LOADER_SLEEP": "100ms",
	"SLOW_TIER_ENABLED": "true", "SLOW_TIER_URIS": "~*/huge 1;", "SLOW_CACHE_DIRECTORY": "/mnt/slow", "SLOW_CACHE_MAX_SIZ": "100g",
	"SLOW_CACHE_MIN_FREE": "2g", "SLOW_CACHE_INACTIVE_TIME": "365d", "SLOW_CACHE_KEYS_ZONE": "300m", "SLOW_CACHE_MANAGER_THRESHOLD": "2000ms",
	"SLOW_CACHE_MANAGER_SLEEP": "500ms", "SLOW_CACHE_MANAGER_FILES": "200", "SLOW_CACHE_LOADER_FILES": "200",
	"SLOW_CACHE_LOADER_THRESHOLD": "400ms", "SLOW_CACHE_LOADER_SLEEP": "100ms",
}

// promised reads from the guide what becomes of each variable.
func promised(t *testing.T) map[string]string {
	t.Helper()
	content, err := os.ReadFile("../../docs/migration.md")
	if err != nil {
		t.Fatal(err)
	}
	promises := map[string]string{}
	_, table, _ := strings.Cut(string(content), "| Variable | Read by | Here | |\n")
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 {
			break
		}
		for _, name := range regexp.MustCompile("`([A-Z0-9_]+)`").FindAllStringSubmatch(cells[1], -1) {
			promises[name[1]] = strings.TrimSpace(cells[3])
		}
	}
	return promises
}

// Whoever comes from an original sets one of its variables, and the proxy does with it what the guide says.
func TestTheGuideIsRightAboutEachVariableOfTheOriginals(t *testing.T) {
	t.Parallel()
	promises := promised(t)
	for name := range promises {
		if _, there := originals[name]; !there {
			t.Errorf("the guide tells of %s, which is none of the originals'", name)
		}
	}
	for name, value := range originals {
		environ := []string{name + "=" + value}
		switch name { // these two go together
		case "CA_CRT_FILE", "CA_KEY_FILE":
			environ = []string{"CA_CRT_FILE=/ca/ca.crt", "CA_KEY_FILE=/ca/ca.key"}
		}
		cfg, err := loadAt(originalImage(), environ...)
		if err != nil {
			t.Errorf("%s=%s stops the start: %v", name, value, err)
			continue
		}
		named := slices.ContainsFunc(cfg.Notices, func(notice string) bool {
			return strings.HasPrefix(notice, name+":") && strings.Contains(notice, "without effect here")
		})
		set := slices.ContainsFunc(settings(), func(s setting) bool { return s.env == name }) || slices.Contains([]string{envCredentials, envEntryDelimiter, envPartDelimiter}, name)
		switch promise := promises[name]; promise {
		case "same", "better":
			if named || !set {
				t.Errorf("%s: the guide promises %s; it is a setting: %t; notices %q", name, promise, set, cfg.Notices)
			}
		case "without effect":
			if !named || set {
				t.Errorf("%s: the guide says it is named as without effect; it is a setting: %t; notices %q", name, set, cfg.Notices)
			}
		default:
			t.Errorf("%s: the guide says %q of it", name, promise)
		}
	}
}

// All of them at once are no trouble either, as in the env file of somebody thorough.
func TestAllVariablesOfTheOriginalsAtOnce(t *testing.T) {
	t.Parallel()
	var environ []string
	for name, value := range originals {
		environ = append(environ, name+"="+value)
	}
	if _, err := loadAt(originalImage(), environ...); err != nil {
		t.Error(err)
	}
}

// originalImage is a container with an original's two volumes.
func originalImage() machine {
	return machine{"ca": aDirectory, "ca/ca.crt": aPEMFile, "ca/ca.key": aFile, "registry_proxy_mirror_cache": aDirectory}
}
