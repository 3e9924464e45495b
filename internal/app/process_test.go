package app_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"container-registry-proxy/internal/app"
	"container-registry-proxy/internal/registrytest"
)

// role tells a copy of the test binary to be a proxy, with the settings of its environment.
const role = "TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(role) == "proxy" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := app.Run(ctx, os.Environ(), os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is a proxy of its own, that has greeted.
type process struct {
	*exec.Cmd
	greeting string
	log      *logLines
}

// spawn starts one in a directory of its own, and ends it with the test.
func spawn(t *testing.T, root string, environ ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0]), log: newLogLines()}
	p.Env = append(plan{world: registrytest.NewWorld(t), root: root, environ: environ}.settings(), role+"=proxy")
	p.Stderr = p.log
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	reader := bufio.NewReader(out)
	for !strings.Contains(p.greeting, "Pull twice") {
		line, err := reader.ReadString('\n')
		if err != nil {
			_ = p.Wait()
			t.Fatalf("the proxy ended while it greeted: %q, %s", p.greeting, p.log)
		}
		p.greeting += line
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }() // until the process ends
	return p
}

// effectRunAs: a process that is started as root becomes somebody else, who has the cache directory then; one that is not
// root stays who it is.
func effectRunAs(t *testing.T) {
	want := uint32(os.Geteuid())
	if want == 0 {
		want = 65532
	}
	// Not below the temporary directory of the test, which nobody else may enter.
	root, err := os.MkdirTemp("", "run-as-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	p := spawn(t, root, "RUN_AS=65532:65532", "UPSTREAM_CA_FILE=")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if line := fmt.Sprintf("\nUid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", want); !strings.Contains(string(status), line) {
		t.Errorf("the process is not user %d:\n%s", want, status)
	}
	err = filepath.WalkDir(filepath.Join(root, "cache"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return ignoreGone(err)
		}
		info, err := entry.Info()
		if err != nil {
			return ignoreGone(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Uid; got != want {
			t.Errorf("%s belongs to %d, want %d", path, got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
