package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"container-registry-proxy/deploy/internal/build"
)

// releases are two of the same source, made one after the other in other directories, for this machine's architecture;
// for all platforms with LONG=1.
func releases(t *testing.T) (first, second string) {
	t.Helper()
	t.Chdir("../..")
	platforms := []string{"linux/" + runtime.GOARCH}
	if os.Getenv("LONG") != "" {
		platforms = []string{"linux/amd64", "linux/arm64", "darwin/amd64", "darwin/arm64"}
	}
	first, second = t.TempDir(), t.TempDir()
	for _, out := range []string{first, second} {
		if err := run(out, platforms); err != nil {
			t.Fatal(err)
		}
		t.Setenv("TZ", "Pacific/Kiritimati")
		t.Setenv("TMPDIR", t.TempDir())
	}
	return first, second
}

// all are the files of a directory by their names.
func all(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]byte{}
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		found[entry.Name()] = content
	}
	return found
}

func TestRelease(t *testing.T) {
	dir, again := releases(t)
	made := all(t, dir)
	for name, content := range all(t, again) {
		if !bytes.Equal(made[name], content) {
			t.Errorf("%s is another when it is made again", name)
		}
	}
	command(t, dir, "sha256sum", "--check", "--strict", "SHA256SUMS")
	for name, content := range made {
		switch {
		case strings.HasSuffix(name, ".tar.gz"):
			wantArchive(t, name, content)
		case strings.HasSuffix(name, ".cdx.json"):
			wantBill(t, content)
		case strings.HasSuffix(name, "_"+runtime.GOARCH+".deb"):
			wantDebian(t, filepath.Join(dir, name))
		case strings.HasSuffix(name, ".rpm"):
			wantRPM(t, filepath.Join(dir, name))
		}
	}
	if want := 5; len(made) < want {
		t.Errorf("made %d files, want %d at least", len(made), want)
	}
}

// command runs a program of this machine, or skips what is behind it where it is absent, but for CI.
func command(t *testing.T, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", args, err, out)
	}
	return string(out)
}

func wantArchive(t *testing.T, name string, content []byte) {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for archive := tar.NewReader(zip); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || header.Uname != "" {
			t.Errorf("%s: %s belongs to somebody", name, header.Name)
		}
		_, inside, _ := strings.Cut(header.Name, "/")
		if files[inside], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{build.Name, build.Name + ".1", "LICENSE", "README.md", "docs/configuration.md", "completions/bash", "completions/zsh", "completions/fish", "systemd/environment"} {
		if len(files[want]) == 0 {
			t.Errorf("%s has no %s", name, want)
		}
	}
	root, err := os.Getwd() // releases has gone there
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(files[build.Name], []byte(filepath.Join(root, "internal")+"/")) {
		t.Errorf("%s: the program holds a path of this machine", name)
	}
	if _, platform, ok := strings.Cut(strings.TrimSuffix(name, ".tar.gz"), "_linux_"); ok {
		wantProgram(t, platform, files)
	}
}

// emulators run programs for other architectures than this machine's.
var emulators = map[string]string{"arm64": "qemu-aarch64-static", "amd64": "qemu-x86_64-static"}

// wantProgram runs the program of an archive for an architecture, and reads its companions.
func wantProgram(t *testing.T, arch string, files map[string][]byte) {
	t.Helper()
	program := filepath.Join(t.TempDir(), build.Name)
	if err := os.WriteFile(program, files[build.Name], 0o755); err != nil {
		t.Fatal(err)
	}
	run := []string{program}
	if arch != runtime.GOARCH {
		run = []string{emulators[arch], program}
	}
	if said := command(t, "", append(run, "version")...); !strings.Contains(said, "linux/"+arch) {
		t.Errorf("the program for %s says that it is %q", arch, said)
	}
	if _, err := exec.LookPath("ldd"); err == nil {
		if out, err := exec.Command("ldd", program).CombinedOutput(); err == nil {
			t.Errorf("the program is not static: %s", out)
		}
	}
	manual := string(files[build.Name+".1"])
	commands := regexp.MustCompile(`(?m)^  ([a-z]+) +[A-Z]`).FindAllStringSubmatch(command(t, "", append(run, "--help")...), -1)
	for _, c := range commands {
		if c[1] != "help" && !regexp.MustCompile(`(?m)^\.(B|BI) "?`+c[1]+`\b`).MatchString(manual) {
			t.Errorf("the man page has nothing on %s", c[1])
		}
	}
	if len(commands) < 6 || strings.Contains(manual, "@") {
		t.Errorf("commands are %q; the man page has the version: %t", commands, !strings.Contains(manual, "@"))
	}
	script := filepath.Join(t.TempDir(), "bash")
	if err := os.WriteFile(script, files["completions/bash"], 0o644); err != nil {
		t.Fatal(err)
	}
	command(t, "", "bash", "-n", script)
}

// wantBill checks that a bill of materials names what the program's own module requires.
func wantBill(t *testing.T, content []byte) {
	t.Helper()
	var b bom
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&b); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, c := range b.Components {
		names[c.Name] = true
		if c.PURL == "" || c.Version == "" || c.Name != "std" && len(c.Properties) == 0 {
			t.Errorf("component %+v", c)
		}
	}
	for _, want := range []string{"std", "github.com/spf13/cobra", "go.etcd.io/bbolt", "golang.org/x/net"} {
		if !names[want] {
			t.Errorf("%s is not in the bill", want)
		}
	}
	if b.Format != "CycloneDX" || len(b.Metadata.Component.Hashes) != 1 {
		t.Errorf("bill is %+v", b.Metadata)
	}
}

// wantDebian installs a package into a root of its own, and removes it again.
func wantDebian(t *testing.T, file string) {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"info", "updates", "triggers"} {
		if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	dpkg := []string{"dpkg", "--root=" + root, "--force-not-root", "--force-script-chrootless", "--log=" + filepath.Join(t.TempDir(), "log")}
	command(t, "", append(dpkg, "--install", file)...)
	for path, mode := range map[string]os.FileMode{
		"usr/bin/" + build.Name: 0o755, "usr/lib/systemd/system/" + build.Name + ".service": 0o644, "usr/lib/systemd/system/" + build.Name + ".socket": 0o644,
		"etc/" + build.Name + "/environment": 0o600, "usr/share/man/man1/" + build.Name + ".1": 0o644,
		"usr/share/bash-completion/completions/" + build.Name: 0o644, "usr/share/doc/" + build.Name + "/docs/configuration.md": 0o644,
	} {
		if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s is not installed with mode %o: %v", path, mode, err)
		}
	}
	if out := command(t, "", filepath.Join(root, "usr/bin", build.Name), "version"); !strings.HasPrefix(out, build.Name) {
		t.Errorf("version says %q", out)
	}
	if out := command(t, "", append(dpkg, "--status", build.Name)...); !strings.Contains(out, "Status: install ok installed") || !strings.Contains(out, "/etc/"+build.Name+"/environment") {
		t.Errorf("dpkg has %s", out)
	}
	command(t, "", append(dpkg, "--purge", build.Name)...)
	if _, err := os.Stat(filepath.Join(root, "usr/bin", build.Name)); !os.IsNotExist(err) {
		t.Errorf("the program is still there: %v", err)
	}
}

func wantRPM(t *testing.T, file string) {
	t.Helper()
	if _, err := exec.LookPath("rpm"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		return
	}
	names := strings.Fields(command(t, "", "rpm", "--query", "--list", "--package", file))
	for _, want := range []string{"/usr/bin/" + build.Name, "/usr/lib/systemd/system/" + build.Name + ".service", "/etc/" + build.Name + "/environment", "/usr/share/doc/" + build.Name + "/docs/configuration.md"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s has no %s: %q", filepath.Base(file), want, names)
		}
	}
	if out := command(t, "", "rpm", "--query", "--configfiles", "--package", file); !strings.Contains(out, "/environment") {
		t.Errorf("configuration files are %q", out)
	}
}
