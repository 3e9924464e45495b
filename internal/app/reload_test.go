package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/registrytest"
)

// A reload has registries, logins, clients and rules count at once; what cannot is named; a wrong configuration changes
// nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t, registrytest.Config{
		Login: registrytest.Basic, Users: map[string]string{"central": "c"}, Private: map[string][]string{"team/app": {"central"}},
	})
	reg.PushImage("team/app", "1", layers(1, 1, 1000)...)
	dir := t.TempDir()
	file, password := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "password")
	write(t, map[string]string{file: "registries: []\n", password: "c\n"})
	p := plan{world: reg.World, root: t.TempDir(), environ: []string{"CONFIG_FILE=" + file}}
	h := p.start(t)
	reload := func(content string) {
		t.Helper()
		write(t, map[string]string{file: content})
		h.app.Reload(func() (*config.Config, error) { return config.Load(p.settings()) })
	}
	if h.intercepts(reg.Host()) {
		t.Fatal("intercepted before it is named")
	}
	address := reg.URL() + "/v2/team/app/manifests/1"
	login := "\ncredentials: [{registry: \"" + reg.Host() + "\", username: central, password_file: " + password + "}]\n"

	reload("registries: [" + reg.Host() + "]\n")
	if !h.intercepts(reg.Host()) {
		t.Fatal("a registry that was added is not intercepted")
	}
	h.ask("GET", address).expect(t, 401)
	reload("registries: [" + reg.Host() + "]" + login)
	h.ask("GET", address).expect(t, 200)

	reload("registries: [" + reg.Host() + "]\ncache_max_size: lots\nallow_push: true" + login)
	h.log.await(t, func(l line) bool { return l.Level == "ERROR" && strings.Contains(l.Msg, "nothing is changed") })
	h.send("POST", reg.URL()+"/v2/team/app/blobs/uploads/", nil).expect(t, 405)
	h.ask("GET", address).expect(t, 200)

	reload("registries: [" + reg.Host() + "]\nallow_push: true\ncache_max_size: 2g" + login)
	h.send("POST", reg.URL()+"/v2/team/app/blobs/uploads/", nil).expect(t, 401)
	h.log.await(t, func(l line) bool {
		return l.Level == "WARN" && strings.Contains(l.Msg, "only after a restart") && l.Settings == "CACHE_MAX_SIZE"
	})

	reload("registries: [" + reg.Host() + "]\nclients: [{repositories: [other/*]}]" + login)
	h.ask("GET", address).expect(t, 403, "clients")
	reload("registries: [" + reg.Host() + "]\nclient_networks: 192.0.2.0/24" + login)
	if _, a := h.connect(reg.Host()); a.status != 403 {
		t.Errorf("a client of another network gets %d", a.status)
	}
	reload("registries: []")
	if h.intercepts(reg.Host()) {
		t.Error("a registry that was taken out is intercepted")
	}
}

// A SIGHUP reloads, and does not end the process.
func TestHangUpReloads(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, map[string]string{file: "log_level: error\n"})
	p := spawn(t, root, "CONFIG_FILE="+file)
	write(t, map[string]string{file: "log_level: info\n"})
	for range 3 {
		if err := p.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // signals that come together count once
	}
	for deadline := time.Now().Add(patience); !strings.Contains(p.log.String(), "configuration is read again"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no reload: %s", p.log.String())
		}
	}
	if err := p.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process has ended: %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "cache", "lock")); err != nil {
		t.Error(err)
	}
}
