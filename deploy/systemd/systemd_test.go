package systemd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"container-registry-proxy/internal/config"
	"container-registry-proxy/test/lack"
)

const (
	service = "container-registry-proxy.service"
	socket  = "container-registry-proxy.socket"
)

func analyze(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		lack.Of(t, "%v", err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
	return string(out), err
}

// installed is a root directory with this machine's units, ours and a program in its place.
func installed(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	units := filepath.Join(root, "usr/lib/systemd/system")
	if err := os.MkdirAll(filepath.Dir(units), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-r", "/usr/lib/systemd/system", units).CombinedOutput(); err != nil {
		t.Fatalf("copy this machine's units: %v: %s", err, out)
	}
	for _, unit := range []string{service, socket} {
		copyFile(t, unit, filepath.Join(units, unit), 0o644)
	}
	for _, program := range []string{"usr/bin/container-registry-proxy", "bin/kill"} { // that the unit names
		copyFile(t, "/bin/true", filepath.Join(root, program), 0o755)
	}
	return root
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, mode); err != nil {
		t.Fatal(err)
	}
}

func TestUnitsAreValid(t *testing.T) {
	t.Parallel()
	out, err := analyze(t, "verify", "--man=no", "--root="+installed(t), service, socket)
	for line := range strings.Lines(out) {
		if err != nil || strings.Contains(line, "container-registry-proxy") { // others' units have their own complaints
			t.Errorf("%v: %s", err, line)
		}
	}
}

// systemd's own measure: 0 is a unit that can do nothing, 10 one without any restriction.
func TestServiceIsHardened(t *testing.T) {
	t.Parallel()
	out, err := analyze(t, "security", "--offline=true", "--no-pager", service)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	level := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
	if level == nil {
		t.Fatalf("no exposure level in:\n%s", out)
	}
	if exposure, err := strconv.ParseFloat(level[1], 64); err != nil || exposure > 1.5 {
		t.Errorf("exposure is %s, want 1.5 at most:\n%s", level[1], out)
	}
}

// The program takes the directories that the unit gives it, and those are the ones that systemd makes.
func TestDirectories(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(service)
	if err != nil {
		t.Fatal(err)
	}
	var environ []string
	for _, m := range regexp.MustCompile(`(?m)^Environment=(.*)$`).FindAllStringSubmatch(string(text), -1) {
		environ = append(environ, m[1])
	}
	cfg, err := config.Load(environ)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.CacheDirectory != "/var/cache/container-registry-proxy" || filepath.Dir(cfg.CADirectory) != "/var/lib/container-registry-proxy" {
		t.Errorf("directories are %s and %s", cfg.CacheDirectory, cfg.CADirectory)
	}
	for _, want := range []string{"CacheDirectory=container-registry-proxy", "StateDirectory=container-registry-proxy"} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).Match(text) {
			t.Errorf("%s has no %s", service, want)
		}
	}
}

// What the file of settings suggests has to be right once its comment sign is taken away.
func TestSuggestedSettings(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("environment")
	if err != nil {
		t.Fatal(err)
	}
	environ := []string{"CACHE_DIRECTORY=" + t.TempDir(), "CA_DIRECTORY=" + t.TempDir()}
	for _, m := range regexp.MustCompile(`(?m)^#([A-Z_]+=.*)$`).FindAllStringSubmatch(string(text), -1) {
		if !strings.HasPrefix(m[1], "CONFIG_FILE=") {
			environ = append(environ, m[1])
		}
	}
	if _, err := config.Load(environ); err != nil || len(environ) < 5 {
		t.Errorf("settings %q: %v", environ, err)
	}
}
