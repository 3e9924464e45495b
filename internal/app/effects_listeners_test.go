package app_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

func effectListen(t *testing.T) {
	h := start(t, registrytest.NewWorld(t), "LISTEN=127.78.0.1:0")
	if !strings.HasPrefix(h.address, "127.78.0.1:") {
		t.Errorf("clients are served at %s, want LISTEN's address", h.address)
	}
	h.local("GET", "/healthz").expect(t, 200, "ok")
	h.local("GET", "/metrics").expect(t, 404)
}

func effectAdminListen(t *testing.T) {
	h := start(t, registrytest.NewWorld(t), "ADMIN_LISTEN=127.78.0.2:0")
	if !strings.HasPrefix(h.admin, "127.78.0.2:") {
		t.Errorf("the operator is served at %s, want ADMIN_LISTEN's address", h.admin)
	}
	h.operator("/metrics").expect(t, 200, prefix)
	h.operator("/ca.crt").expect(t, 404)
}

// effectHTTP2: clients that can are offered it, and pull over it.
func effectHTTP2(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	reg.PushImage("app", "1", layers(1, 2, 300_000)...)
	for setting, want := range map[string]int{"false": 1, "true": 2} {
		h := start(t, reg.World, "REGISTRIES="+reg.Host(), "HTTP2="+setting)
		h.http = h.client(func(transport *http.Transport) { transport.ForceAttemptHTTP2 = true })
		for _, a := range h.pull(reg, "app", "1").answers {
			if a.proto != want {
				t.Errorf("HTTP2=%s: answered in HTTP/%d, want HTTP/%d", setting, a.proto, want)
			}
		}
	}
}

// logOf is what a proxy logs that is pulled through once and ends.
func logOf(t *testing.T, environ ...string) string {
	t.Helper()
	reg := registrytest.New(t, registrytest.Config{})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	// A setting without effect makes a warning.
	h := start(t, reg.World, append(environ, "REGISTRIES="+reg.Host(), "SLOW_TIER_ENABLED=true")...)
	h.pull(reg, "app", "1")
	if err := h.close(); err != nil {
		t.Fatal(err)
	}
	return h.log.String()
}

func effectLogLevel(t *testing.T) {
	for setting, want := range map[string]struct{ debug, info, warn bool }{
		"debug": {true, true, true}, "info": {false, true, true}, "warn": {false, false, true}, "error": {},
	} {
		log := logOf(t, "LOG_LEVEL="+setting)
		for level, want := range map[string]bool{"DEBUG": want.debug, "INFO": want.info, "WARN": want.warn} {
			if got := strings.Contains(log, `"level":"`+level+`"`); got != want {
				t.Errorf("LOG_LEVEL=%s: has lines of level %s = %v, want %v:\n%s", setting, level, got, want, log)
			}
		}
		if got := strings.Contains(log, `"msg":"request"`); got != want.info {
			t.Errorf("LOG_LEVEL=%s: has access records = %v, want %v", setting, got, want.info)
		}
	}
}

func effectLogFormat(t *testing.T) {
	if log := logOf(t, "LOG_FORMAT=text"); !strings.Contains(log, "level=INFO msg=request method=GET kind=manifest") {
		t.Errorf("LOG_FORMAT=text logs\n%s", log)
	}
	if log := logOf(t); !strings.HasPrefix(log, "{") || !strings.Contains(log, `"msg":"request","method":"GET"`) {
		t.Errorf("without LOG_FORMAT the log is\n%s", log)
	}
}

func effectDebug(t *testing.T)      { meansDebug(t, "DEBUG") }
func effectDebugNginx(t *testing.T) { meansDebug(t, "DEBUG_NGINX") }

func meansDebug(t *testing.T, name string) {
	t.Helper()
	for setting, want := range map[string]bool{"true": true, "false": false} {
		if got := strings.Contains(logOf(t, name+"="+setting), `"level":"DEBUG"`); got != want {
			t.Errorf("%s=%s: has lines of level DEBUG = %v, want %v", name, setting, got, want)
		}
	}
}

// effectConfigFile: the file's settings are at work, the environment's win.
func effectConfigFile(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{Login: registrytest.Basic, Users: map[string]string{"robot": "s3cret with spaces"}})
	reg.PushImage("app", "latest", layers(1, 1, 1000)...)
	dir := t.TempDir()
	path := filepath.Join(dir, "proxy.yaml")
	write(t, map[string]string{
		path: `
registries: ["*.nowhere.test"]
auth_registries:
  - {host: "` + reg.Host() + `", username: robot, password_file: secrets/robot}
enable_manifest_cache: true
manifest_cache_default_time: 1d
log_level: error
`,
		filepath.Join(dir, "secrets", "robot"): "s3cret with spaces\n",
	})
	h := start(t, reg.World, "CONFIG_FILE="+path, "LOG_LEVEL=info")
	h.pull(reg, "app", "latest").wantOutcomes(t, "MISS", "MISS")
	if got := h.pull(reg, "app", "latest").answers[0].outcome(); got != "HIT" {
		t.Errorf("second pull of the tag: %s, want HIT by the file's enable_manifest_cache", got)
	}
	if len(h.log.requests(t)) == 0 {
		t.Error("LOG_LEVEL=info in the environment does not win over log_level: error in the file")
	}
}
