package setup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// written writes every script there is into files, with what makes one differ from another: modes, a list of what is
// reached without the proxy, an IPv6 address, no port.
func written(t *testing.T) []string {
	t.Helper()
	certificate := newAuthority(t)
	plain := Handler(Config{CertificatePEM: certificate, Registries: registries})
	tls := Handler(Config{CertificatePEM: certificate, Registries: registries, Address: "https://proxy.example"})
	dir := t.TempDir()
	var files []string
	for _, name := range Clients() {
		for suffix, from := range map[string][2]string{
			"": {"", "proxy:3128"}, "-no-proxy": {"?no_proxy=10.0.0.0/8,fd00::/8,.svc", "[fd00::1]:3128"},
			"-mirror": {"?mode=mirror", "192.168.66.72"}, "-mirror-tls": {"?mode=mirror", "proxy"}, "-undo": {"/undo", "proxy"},
		} {
			h := plain
			if strings.HasSuffix(suffix, "-tls") {
				h = tls
			}
			answer := get(h, "GET", "/setup/"+name+from[0], from[1])
			if name == "systemd" && strings.HasPrefix(suffix, "-mirror") {
				continue
			}
			if answer.Code != 200 {
				t.Fatalf("%s%s: status %d: %s", name, from[0], answer.Code, answer.Body)
			}
			file := filepath.Join(dir, name+suffix+".sh")
			if err := os.WriteFile(file, answer.Body.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
	}
	return files
}

func TestScriptsAreComplete(t *testing.T) {
	t.Parallel()
	for _, file := range written(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "@") && !strings.Contains(line, `"$@"`) {
				t.Errorf("%s: a place was not filled in: %s", filepath.Base(file), line)
			}
		}
		if lines := strings.Count(string(text), "\n"); lines > 220 {
			t.Errorf("%s has %d lines: who would read that before it is run?", filepath.Base(file), lines)
		}
		if !strings.HasPrefix(string(text), "#!/bin/sh\n# ") {
			t.Errorf("%s does not say what it does in its second line", filepath.Base(file))
		}
	}
}

// Each shell that a client's machine may have as sh takes each script, and shellcheck has nothing to say.
func TestScriptsAreClean(t *testing.T) {
	t.Parallel()
	files := written(t)
	run := func(args ...string) {
		t.Helper()
		if _, err := exec.LookPath(args[0]); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is absent: scripts/install-test-packages installs it", args[0])
			}
			t.Logf("%s is absent: scripts/install-test-packages installs it", args[0])
			return
		}
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", args[0], err, out)
		}
	}
	for _, file := range files {
		run("bash", "-n", file)
		run("dash", "-n", file)
		run("busybox", "sh", "-n", file)
	}
	run(append([]string{"shellcheck", "--shell=sh"}, files...)...)
	// Scripts of this repository: a variable without quotes there is a list.
	var ours []string
	for _, pattern := range []string{"scripts/*", ".ci/*", "deploy/*/configure-nodes", "deploy/*/*.sh"} {
		found, err := filepath.Glob("../../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range found {
			if text, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(text), "#!/bin/sh\n") {
				ours = append(ours, file)
			}
		}
	}
	if len(ours) < 4 {
		t.Fatalf("found only %q", ours)
	}
	run(append([]string{"shellcheck", "--exclude=SC2086"}, ours...)...)
}
