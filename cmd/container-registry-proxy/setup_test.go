package main

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"container-registry-proxy/internal/setup"
	"container-registry-proxy/test/lack"
)

// The command line prints what the proxy serves, to the byte, and undoes it without a proxy.
func TestSetup(t *testing.T) {
	t.Parallel()
	pages := setup.Handler(setup.Config{Registries: []string{"quay.io"}})
	server := httptest.NewServer(pages)
	defer server.Close()
	address := server.Listener.Addr().String()
	served := func(path string) string {
		r := httptest.NewRequest("GET", path, nil)
		r.Host = address
		w := httptest.NewRecorder()
		pages.ServeHTTP(w, r)
		return w.Body.String()
	}
	home := "HOME=" + t.TempDir()
	for _, name := range setup.Clients() {
		for _, tt := range []struct {
			path string
			args []string
			env  string
		}{
			{"/setup/" + name, []string{"--proxy", server.URL}, ""},
			{"/setup/" + name, []string{"--proxy", server.URL + "/", "--mode=intercept"}, ""},
			{"/setup/" + name, []string{"--proxy", address}, ""},
			{"/setup/" + name, []string{"--by-address"}, "HTTPS_PROXY=" + server.URL},
			{"/setup/" + name, nil, "LISTEN=" + address},
			{"/setup/" + name + "?no_proxy=10.0.0.0/8,.svc", []string{"--proxy", server.URL, "--no-proxy", "10.0.0.0/8,.svc"}, ""},
			{"/setup/" + name + "?mode=mirror", []string{"--proxy", server.URL, "--mode", "mirror"}, ""},
			{"/setup/" + name + "/undo", []string{"--undo"}, ""},
			{"/setup/" + name + "/undo", []string{"--undo", "--mode", "mirror", "--proxy", "http://gone.test:3128"}, ""},
		} {
			code, stdout, stderr := execute(t, []string{home, tt.env}, append([]string{"setup", name}, tt.args...)...)
			if name == "systemd" && strings.Contains(tt.path, "mirror") {
				if code != exitFailure || !strings.Contains(stderr, "want /setup/docker") {
					t.Errorf("%s %q: exit %d, %s", name, tt.args, code, stderr)
				}
				continue
			}
			if code != 0 || stderr != "" || stdout != served(tt.path) {
				t.Errorf("%s %q: exit %d, stderr %q; want what %s is: %s", name, tt.args, code, stderr, tt.path, stdout)
			}
		}
	}
}

func TestSetupRefuses(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer other.Close()
	named := httptest.NewServer(setup.Handler(setup.Config{Address: "https://proxy.example:3128"}))
	defer named.Close()
	overTLS := httptest.NewUnstartedServer(setup.Handler(setup.Config{}))
	overTLS.Config.ErrorLog = log.New(io.Discard, "", 0)
	overTLS.StartTLS()
	defer overTLS.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "want one of docker"},
		{[]string{"nomad"}, 2, "want one of docker"},
		{[]string{"docker", "podman"}, 2, "want one of docker"},
		{[]string{"docker", "--mode", "sidecar"}, 2, "want mirror"},
		{[]string{"docker", "--no-proxy", "$(id)"}, 2, "such as 10.0.0.0/8"},
		{[]string{"docker", "--mode=mirror", "--no-proxy=.svc"}, 2, "leave it away"},
		{[]string{"docker", "--every", "1m"}, 2, "together with --root"},
		{[]string{"docker", "--proxy", "ftp://proxy:3128"}, 2, "such as http://192.168.66.72:3128"},
		{[]string{"docker", "--proxy", overTLS.URL}, 1, "SETUP_ADDRESS=" + overTLS.URL + " on the proxy"},
		{[]string{"docker", "--proxy", named.URL, "--by-address"}, 1, "leave away the one or the other"},
		{[]string{"docker", "--proxy", "http://proxy:3128/setup"}, 2, "such as http://192.168.66.72:3128"},
		{[]string{"docker", "--proxy", "http://user:secret@proxy:3128"}, 2, "such as http://192.168.66.72:3128"},
		{[]string{"docker", "--proxy", gone.URL}, 1, "has to run"},
		{[]string{"docker", "--proxy", other.URL}, 1, "is not this proxy"},
	} {
		code, stdout, stderr := execute(t, []string{"HOME=" + t.TempDir()}, append([]string{"setup"}, tt.args...)...)
		if code != tt.code || stdout != "" || !strings.Contains(stderr, tt.want) || strings.Contains(stderr, "secret") {
			t.Errorf("%q: exit %d, stdout %q, stderr %q; want %d and %q", tt.args, code, stdout, stderr, tt.code, tt.want)
		}
	}
}

// A node is set up from a container that has its root directory: with the node's own shell, as the container has none.
func TestSetupInARoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		lack.Of(t, "root, to change its root directory")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		lack.Of(t, "%v", err)
	}
	server := httptest.NewServer(setup.Handler(setup.Config{}))
	defer server.Close()
	root := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("bin/busybox", string(busybox))
	cksum, err := os.ReadFile("/usr/bin/cksum") // not every busybox has it
	if err != nil {
		t.Fatal(err)
	}
	write("bin/cksum", string(cksum))
	needed, _ := exec.Command("ldd", "/bin/busybox", "/usr/bin/cksum").Output() // it fails for a static one, which needs nothing
	for _, library := range regexp.MustCompile(`/\S*lib\S*`).FindAllString(string(needed), -1) {
		content, err := os.ReadFile(library)
		if err != nil {
			t.Fatal(err)
		}
		write(library, string(content))
	}
	for _, applet := range []string{"sh", "id", "cat", "grep", "mkdir", "mv", "rm", "rmdir", "cut", "sort", "ls"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	write("bin/containerd", "#!/bin/sh\necho 'config_path = \"/etc/containerd/certs.d\"'\n")
	write("etc/containerd/config.toml", "")
	write("var/lib/keep", "")
	write("dev/null", "")
	hosts := filepath.Join(root, "etc/containerd/certs.d/_default/hosts.toml")
	args := []string{"setup", "containerd", "--mode", "mirror", "--proxy", server.URL, "--root", root}
	if code, _, stderr := execute(t, nil, args...); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if got, err := os.ReadFile(hosts); err != nil || !strings.Contains(string(got), server.URL) {
		t.Errorf("hosts.toml is %q: %v", got, err)
	}
	if code, stdout, stderr := execute(t, nil, args...); code != 0 || !strings.Contains(stdout, "containerd is set up") {
		t.Errorf("second run: exit %d: %s%s", code, stdout, stderr)
	}
	if code, stdout, stderr := execute(t, nil, "setup", "containerd", "--undo", "--root", root); code != 0 || !strings.Contains(stdout, "as it was") {
		t.Errorf("undo: exit %d: %s%s", code, stdout, stderr)
	}
	if _, err := os.Stat(filepath.Dir(filepath.Dir(hosts))); !os.IsNotExist(err) {
		t.Errorf("certs.d is still there: %v", err)
	}
	if code, _, stderr := execute(t, nil, append(args[:len(args)-1], t.TempDir())...); code != exitFailure || !strings.Contains(stderr, "setup containerd in") {
		t.Errorf("a root without a shell: exit %d: %s", code, stderr)
	}
}
