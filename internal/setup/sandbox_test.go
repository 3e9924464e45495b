package setup

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"container-registry-proxy/test/lack"
)

// machine is a file system of its own for a script, with the programs of this machine and a systemd that only notes what
// it is told. Nothing outside of it can be written.
type machine struct {
	t    *testing.T
	root string
}

// newMachine makes a machine with these systemd units. The trust tools are the names of those it has.
func newMachine(t *testing.T, trustTools []string, units ...string) *machine {
	t.Helper()
	m := &machine{t: t, root: t.TempDir()}
	for _, dir := range []string{"dev", "usr", "tmp", "etc/systemd/system", "run/systemd/system", "units", "tools", "local/share", "var/lib"} {
		m.mkdir(dir)
	}
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib64"} { // links into /usr
		if target, err := os.Readlink(dir); err == nil {
			if err := os.Symlink(target, filepath.Join(m.root, dir)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, unit := range units {
		m.write("units/"+unit, "", 0o644)
	}
	// They read what they can of their input, as programs that ask questions do: it must not be the rest of the script.
	m.write("tools/systemctl", "#!/bin/sh\ncat >/dev/null\nif [ \"$1\" = cat ]; then [ -e \"/units/$2\" ]; exit; fi\necho \"systemctl $*\" >>/calls\n", 0o755)
	for _, tool := range trustTools {
		m.write("tools/"+tool, "#!/bin/sh\ncat >/dev/null\necho \""+tool+"${1+ $*}\" >>/calls\n", 0o755)
	}
	return m
}

func (m *machine) mkdir(dir string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Join(m.root, dir), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) write(name, content string, mode os.FileMode) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.root, name), []byte(content), mode); err != nil {
		m.t.Fatal(err)
	}
}

// read is a file of the machine, or "" if there is none.
func (m *machine) read(name string) string {
	m.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.root, name))
	if err != nil && !os.IsNotExist(err) {
		m.t.Fatal(err)
	}
	return string(b)
}

// takeCalls is what the tools have been told since the last time, one a line.
func (m *machine) takeCalls() []string {
	m.t.Helper()
	calls := strings.Split(strings.TrimSpace(m.read("calls")), "\n")
	m.write("calls", "", 0o644)
	return slices.DeleteFunc(calls, func(s string) bool { return s == "" })
}

// run gives a command line to sh on the machine, and returns what it printed.
func (m *machine) run(commandLine string) (output string, err error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	const enter = `set -e
mount --rbind /usr "$0/usr"
mount -o remount,bind,ro "$0/usr"
mount --bind "$0/local/share" "$0/usr/local/share"
mount --rbind /dev "$0/dev"
PATH=$PATH:/usr/sbin:/sbin
exec chroot "$0" /usr/bin/env -i PATH=/tools:/usr/bin:/bin sh -c "$1"`
	cmd := exec.CommandContext(ctx, "sh", "-c", enter, m.root, commandLine)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 { // root of a user namespace may mount and change its root too
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
	}
	out, err := cmd.CombinedOutput()
	return string(bytes.TrimSpace(out)), err
}

// needSandbox skips the test where the kernel lets nobody make a machine, and fails it under CI.
func needSandbox(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range append(programs, "curl", "sed", "mount") {
		if _, err := exec.LookPath(program); err != nil {
			lack.Of(t, "%s: scripts/install-test-packages installs it", program)
		}
	}
	if out, err := newMachine(t, nil).run("exit 0"); err != nil {
		lack.Of(t, "namespaces for the script: %v: %s", err, out)
	}
}

// want compares two lists of lines.
func (m *machine) wantCalls(when string, want ...string) {
	m.t.Helper()
	if got := m.takeCalls(); !slices.Equal(got, want) {
		m.t.Errorf("%s: the machine was told\n%q, want\n%q", when, got, want)
	}
}

// environment is what systemd gives a unit with this drop-in: NAME=value of each quoted word, as systemd.exec(5) has it.
func environment(t *testing.T, dropin string) map[string]string {
	t.Helper()
	vars := map[string]string{}
	section := ""
	for line := range strings.Lines(dropin) {
		line = strings.TrimSuffix(line, "\n")
		words, isEnvironment := strings.CutPrefix(line, "Environment=")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = line
		case !isEnvironment || section != "[Service]":
			t.Errorf("systemd would make nothing of the line %q in section %q", line, section)
		default:
			for words != "" {
				quoted, opened := strings.CutPrefix(words, `"`)
				word, rest, closed := strings.Cut(quoted, `"`)
				name, value, assigned := strings.Cut(word, "=")
				if !opened || !closed || !assigned || strings.ContainsAny(word, `\%`) || rest != "" && !strings.HasPrefix(rest, " ") {
					t.Fatalf("no plain assignment in double quotes: %q", words)
				}
				vars[name] = value
				words = strings.TrimLeft(rest, " ")
			}
		}
	}
	return vars
}

// verify asks systemd itself about a drop-in, if it is on this machine.
func verify(t *testing.T, dropin string) {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		return // environment has checked the same
	}
	dir := t.TempDir()
	unit := filepath.Join(dir, "docker.service")
	for name, content := range map[string]string{
		unit: "[Unit]\nDescription=test\n[Service]\nExecStart=/bin/true\n", filepath.Join(unit+".d", dropinName): dropin,
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
	if out, err := cmd.CombinedOutput(); err != nil || bytes.Contains(out, []byte(dropinName)) {
		t.Errorf("systemd-analyze verify: %v: %s\n%s", err, out, dropin)
	}
}
