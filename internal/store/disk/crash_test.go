package disk_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/store/storetest"
)

// What a process is told that runs the script, and kills itself at an operation of the disk.
const (
	envCrashDir = "DISK_TEST_CRASH_DIRECTORY"
	envCrashAt  = "DISK_TEST_CRASH_AT"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envCrashDir); dir != "" {
		at, _ := strconv.Atoi(os.Getenv(envCrashAt))
		crash(dir, at)
		return
	}
	if dir := os.Getenv(envWorkDir); dir != "" {
		workUntilKilled(dir)
		return
	}
	os.Exit(m.Run())
}

// crash runs the script and writes to stdout what is said, up to the operation at which it kills the process.
func crash(dir string, at int) {
	ops := 0
	step := func(name string) error {
		if ops++; ops == at {
			fmt.Println("killed at", name)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // it does not return
		}
		return nil
	}
	wrong := func(format string, args ...any) { fmt.Printf("wrong: "+format+"\n", args...) }
	s, err := disk.OpenFaulty(scriptConfig(dir), step)
	if err != nil {
		wrong("%v", err)
		return
	}
	run := script{
		store: s, wrong: wrong, said: func(what string) { fmt.Println("said: " + what) },
		step: func(name string) { _ = step(name) },
	}
	run.run()
	if err := s.Close(); err != nil {
		wrong("%v", err)
	}
	fmt.Println("ended")
}

// crashed runs the script in a process that is killed at an operation. It reports what was said, at which operation, and
// whether the script ended before.
func crashed(t *testing.T, dir string, at int) (said []string, step string, ended bool) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), envCrashDir+"="+dir, fmt.Sprintf("%s=%d", envCrashAt, at))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	for lines.Scan() {
		line := lines.Text()
		if what, ok := strings.CutPrefix(line, "said: "); ok {
			said = append(said, what)
		} else if what, ok := strings.CutPrefix(line, "killed at "); ok {
			step = what
		} else if line == "ended" {
			ended = true
		} else {
			t.Errorf("the process says %q", line)
		}
	}
	if !ended && step == "" {
		t.Fatalf("the process has died of something else: %v", err)
	}
	return said, step, ended
}

// operations are the script's operations of the disk, in order.
func operations(t *testing.T) (steps []string) {
	t.Helper()
	s, err := disk.OpenFaulty(scriptConfig(memoryDir(t)), func(step string) error { steps = append(steps, step); return nil })
	if err != nil {
		t.Fatal(err)
	}
	run := script{store: s, wrong: t.Errorf, said: func(string) {}, step: func(name string) { steps = append(steps, name) }}
	run.run()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, step := range []string{"create", "write", "fsync", "chmod", "mkdir", "rename", "syncdir", "syncall", "remove", "statfs", "flush"} {
		if !slices.Contains(steps, step) {
			t.Errorf("the script does not come to %s", step)
		}
	}
	return steps
}

// pick returns operations to fail at, counted from 1: all in a long test, and otherwise one of each kind.
func pick(t *testing.T, steps []string) (at []int) {
	t.Helper()
	if long() {
		for i := range steps {
			at = append(at, i+1)
		}
		return at
	}
	picked := map[string]int{}
	for _, i := range storetest.Seeded(t).Perm(len(steps)) {
		if picked[steps[i]]++; picked[steps[i]] == 1 {
			at = append(at, i+1)
		}
	}
	return at
}

// long reports whether tests may take long.
func long() bool { return os.Getenv("LONG") != "" }

// The process may be killed at any operation that changes the disk. What it had said holds in the next one.
func TestKilledAtAnOperation(t *testing.T) {
	t.Parallel()
	for _, at := range pick(t, operations(t)) {
		dir := memoryDir(t)
		said, step, ended := crashed(t, dir, at)
		if ended {
			t.Fatalf("not killed at operation %d", at)
		}
		s := open(t, scriptConfig(dir))
		wantsScriptState(t, s, said)
		if err := errors.Join(s.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Fatalf("killed at operation %d, %s; it had said %q", at, step, said)
		}
	}
}

// Being killed again and again, on the same directory, makes it no worse.
func TestKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	dir := memoryDir(t)
	stride := 61
	if long() {
		stride = 7
	}
	for at := 5; ; at += stride {
		said, step, ended := crashed(t, dir, at)
		s := open(t, scriptConfig(dir))
		wantsScriptState(t, s, said)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Fatalf("killed at operation %d, %s; it had said %q", at, step, said)
		}
		if ended {
			return
		}
	}
}
