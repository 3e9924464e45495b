package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Bounds on what runs: generous, since other tests share the machine.
const (
	startTimeout   = 60 * time.Second
	commandTimeout = 5 * time.Minute
	stopTimeout    = 30 * time.Second
)

// command is a program to run.
type command struct {
	args []string
	env  []string // all of it; PATH and HOME are added
	// mounts are shell commands that run before the program, in its mount namespace.
	mounts []string
}

// ownView gives a program the machine's /run, /etc and /var/lib as if it had them to itself: what it writes there (keys,
// locks, which blobs are where) helps no other program and is not left behind. Temporary directories are elsewhere.
const ownView = `set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
for dir in etc var/lib; do
	mkdir -p "/run/own/$dir" "/run/work/$dir"
	mount -t overlay -o "lowerdir=/$dir,upperdir=/run/own/$dir,workdir=/run/work/$dir" overlay "/$dir"
done
`

// cmd is the command, in a mount namespace and process group of its own. What it mounts ends with it.
func (c command) cmd(ctx context.Context, t *testing.T) *exec.Cmd {
	script := ownView + strings.Join(c.mounts, "\n") + "\nexec \"$@\"\n"
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", script, "sh"}, c.args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home(t), "TMPDIR=" + os.TempDir()}, c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: syscall.CLONE_NEWNS}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func home(t *testing.T) string {
	dir := filepath.Join(os.TempDir(), "home-"+strings.ReplaceAll(t.Name(), "/", "-"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// run runs a program to its end and returns what it printed; it ends the test if the program fails.
func (c command) run(t *testing.T) string {
	t.Helper()
	out, err := c.try(t)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try runs a program to its end and returns what it printed, or an error with all of it.
func (c command) try(t *testing.T) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	cmd := c.cmd(ctx, t)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(c.args, " "), err, stdout.String(), stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// daemon is a program that runs until it is stopped, or its test ends.
type daemon struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	output string // file
	ended  chan struct{}
}

// start starts a program, with what it prints in a file of its own.
func (c command) start(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{t: t, name: filepath.Base(c.args[0]), ended: make(chan struct{})}
	out, err := os.CreateTemp(t.TempDir(), d.name+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	d.output = out.Name()
	d.cmd = c.cmd(context.Background(), t)
	d.cmd.Stdout, d.cmd.Stderr = out, out
	if err := d.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", d.name, err)
	}
	go func() { // until the process ends, which stop sees to
		defer close(d.ended)
		_ = d.cmd.Wait()
	}()
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("output of %s:\n%s", d.name, tail(d.text(), 40))
		}
	})
	return d
}

// stop ends the program and everything it started. It may be called again.
func (d *daemon) stop() {
	d.t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-d.ended:
	case <-time.After(stopTimeout):
		d.t.Errorf("%s does not end within %s of SIGTERM", d.name, stopTimeout)
	}
	_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) // what is left of its group
	<-d.ended
}

// exitCode is what the program ended with, or -1 if a signal ended it. It has to have ended.
func (d *daemon) exitCode() int {
	<-d.ended
	return d.cmd.ProcessState.ExitCode()
}

// text is what the program has printed so far.
func (d *daemon) text() string {
	b, err := os.ReadFile(d.output)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

// awaitReady polls until the program is ready, and ends the test if it ends or takes too long.
func (d *daemon) awaitReady(ready func() error) {
	d.t.Helper()
	d.awaitWithin(startTimeout, ready)
}

// awaitWithin does the same for a program that takes its time.
func (d *daemon) awaitWithin(bound time.Duration, ready func() error) {
	d.t.Helper()
	deadline := time.Now().Add(bound)
	for {
		err := ready()
		if err == nil {
			return
		}
		select {
		case <-d.ended:
			d.t.Fatalf("%s ended at its start:\n%s", d.name, tail(d.text(), 40))
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("%s is not ready after %s: %v", d.name, bound, err)
		}
	}
}

// answers returns a check that a GET of the URL gives a status below 500.
func answers(client *http.Client, url string) func() error {
	return func() error {
		resp, err := client.Get(url)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode >= 500 {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}
}

// succeeds returns a check that a program of the shell succeeds.
func succeeds(c command, t *testing.T) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if out, err := c.cmd(ctx, t).CombinedOutput(); err != nil {
			return errors.Join(err, errors.New(string(out)))
		}
		return nil
	}
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
