package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"container-registry-proxy/test/lack"
)

// program is the program under test, built once for all tests.
var program string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Temporary directories of the tests are below this one, so that what is left behind can be told from what is not ours.
	os.Setenv("TMPDIR", dir)
	program = filepath.Join(dir, "container-registry-proxy")
	if out, err := goCommand("build", "-trimpath", "-o", program, "container-registry-proxy/cmd/container-registry-proxy").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the proxy: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if left := leftBehind(dir); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "FAIL: left behind:\n%s\n", strings.Join(left, "\n"))
		return 1
	}
	return code
}

// goCommand runs the go command without cgo, in any directory of this module.
func goCommand(args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return cmd
}

// leftBehind lists processes that were started with a path below dir, and mounts below it.
func leftBehind(dir string) []string {
	var left []string
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		line, err := os.ReadFile(p + "/cmdline")
		if filepath.Base(p) != fmt.Sprint(os.Getpid()) && err == nil && bytes.Contains(line, []byte(dir)) {
			left = append(left, "process "+filepath.Base(p)+": "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+dir+"/") {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	return left
}

// install installs every Debian package that these tests need, once.
var install = sync.OnceValue(func() error {
	cmd := exec.Command("../../scripts/install-test-packages")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
})

// need makes sure that programs are there: it installs them as root, and skips the test on a machine where it may not.
func need(t *testing.T, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		lack.Of(t, "root, with which real clients mount and have namespaces of their own")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		if err := install(); err != nil {
			lack.Of(t, "%s, which cannot be installed: %v", program, err)
		}
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is absent after the installation: %v", program, err)
		}
	}
}
