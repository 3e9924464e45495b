package peer

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"container-registry-proxy/bench/load"
	"container-registry-proxy/bench/origin"
)

// The test binary plays the benchmark's own roles, as the benchmark's program does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "serve-") {
		if err := Be(os.Args[1], os.Args[2:]); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func get(t *testing.T, target load.Target, path string) []byte {
	t.Helper()
	c, err := load.Dial(t.Context(), target, load.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	answer, err := c.Get(t.Context(), load.Request{Path: path, Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Body
}

func TestLimitServesTheBlob(t *testing.T) {
	t.Parallel()
	blob := origin.Blob{Size: 3<<20 + 5}
	l, _ := startLimit(t, blob.Size)
	want := make([]byte, blob.Size)
	blob.ReadAt(want, 0)
	for _, path := range []string{"/plain", "/sums/checked"} {
		if got := get(t, l.Target, path); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, not the blob's %d", path, len(got), len(want))
		}
	}
}

func newCertificates(t *testing.T) *Certificates {
	t.Helper()
	certs, err := NewCertificates(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

// startLimit starts the limit in front of an origin.
func startLimit(t *testing.T, size int64) (*Limit, *Origin) {
	t.Helper()
	certs := newCertificates(t)
	o := startOrigin(t, certs)
	l, err := StartLimit(t.Context(), t.TempDir(), certs, o, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Stop() })
	return l, o
}

// A small fill of the limit has the origin's bytes, which end in a file.
func TestLimitFills(t *testing.T) {
	t.Parallel()
	l, o := startLimit(t, 1<<10)
	digest, err := o.Control.Blob(t.Context(), 4<<10)
	if err != nil {
		t.Fatal(err)
	}
	path := "/v2/team/app/blobs/" + digest
	want := get(t, o.Direct, path)
	for range 2 {
		if got := get(t, l.Small, FillPrefix+path); !bytes.Equal(got, want) {
			t.Errorf("%d bytes, not the origin's %d", len(got), len(want))
		}
	}
	if got := get(t, l.Small, path); len(got) != 2<<10 {
		t.Errorf("a hit has %d bytes, want the 2 KiB that are in memory", len(got))
	}
	files, err := filepath.Glob(filepath.Join(l.command.Dir, "limit-objects", "*", "*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("the files %q, %v; want one for each request", files, err)
	}
	for _, name := range files {
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; not the origin's", name, len(got), err)
		}
	}
}

func startOrigin(t *testing.T, certs *Certificates) *Origin {
	t.Helper()
	o, err := StartOrigin(t.Context(), t.TempDir(), certs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Stop() })
	return o
}

// What a process costs grows with what it does, and nothing is left of it once it was stopped.
func TestAccounts(t *testing.T) {
	t.Parallel()
	o := startOrigin(t, newCertificates(t))
	before, err := o.CPU()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := o.Control.Blob(t.Context(), 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []load.Target{o.Direct, o.Plain} {
		if got := get(t, target, "/v2/team/app/blobs/"+digest); len(got) != 8<<20 {
			t.Errorf("%s: %d bytes, want 8 MiB", target.Addr, len(got))
		}
	}
	after, err := o.CPU()
	if err != nil || after-before < time.Millisecond || after-before > time.Minute {
		t.Errorf("CPU of hashing and sending 8 MiB: %s, %v", after-before, err)
	}
	if memory, err := o.Memory(); err != nil || memory < 1<<20 || memory > 1<<30 {
		t.Errorf("memory = %d bytes, %v", memory, err)
	}
	pid := o.cmd.Process.Pid
	if err := o.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d after Stop: %v, want none", pid, err)
	}
	if err := o.Stop(); err != nil {
		t.Errorf("second Stop: %v", err)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	l, _ := startLimit(t, 1<<10)
	first := l.cmd.Process.Pid
	if _, err := l.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l.cmd.Process.Pid == first {
		t.Error("the process is the same")
	}
	if got := get(t, l.Target, "/"); len(got) != 1<<10 {
		t.Errorf("%d bytes, want 1024", len(got))
	}
}

// A program whose cache has grown begins anew without it; another is left alone.
func TestTidy(t *testing.T) {
	t.Parallel()
	o := startOrigin(t, newCertificates(t))
	o.command.Cache = filepath.Join(t.TempDir(), "cache")
	cached := filepath.Join(o.command.Cache, "a", "b")
	if err := errors.Join(os.MkdirAll(filepath.Dir(cached), 0o755), os.WriteFile(cached, make([]byte, 1<<20), 0o644)); err != nil {
		t.Fatal(err)
	}
	first := o.cmd.Process.Pid
	if err := o.Tidy(t.Context(), 2<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cached); err != nil || o.cmd.Process.Pid != first {
		t.Errorf("it was not left alone: %v", err)
	}
	if err := o.Tidy(t.Context(), 512<<10); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(cached); !errors.Is(err, fs.ErrNotExist) || o.cmd.Process.Pid == first {
		t.Errorf("it goes on with its cache: %v", err)
	}
	if _, err := o.Control.Counts(t.Context()); err != nil {
		t.Errorf("it does not serve: %v", err)
	}
}

func TestAProgramThatDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := Start(t.Context(), Command{
		Name: "broken", Path: "sh", Args: []string{"-c", "echo no such setting; exit 3"}, Dir: dir,
		Ready: func(context.Context) error { return errors.New("not ready") },
	})
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no such setting") {
		t.Errorf("err = %v, want how it ended and its last words", err)
	}
}

func TestChildrenCount(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "sleep 60 & echo; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // its child has been started
		t.Fatal(err)
	}
	children := descendants(cmd.Process.Pid)
	for _, pid := range append(children, cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = cmd.Wait() // killed
	if len(children) != 1 {
		t.Errorf("children = %v, want one", children)
	}
}

func TestFindWithoutFetch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if tools := Find(t.Context(), dir, false); tools.RegistryErr == nil {
		t.Errorf("Find = %+v in an empty directory, want no registry", tools)
	}
	for _, name := range []string{"nginx/usr/sbin/nginx", "nginx/usr/lib/nginx/modules/ngx_stream_module.so", "registry"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tools := Find(t.Context(), dir, false)
	if tools.NginxErr != nil || tools.RegistryErr != nil || !strings.HasPrefix(tools.Nginx, dir) || !strings.HasPrefix(tools.Registry, dir) {
		t.Errorf("Find = %+v, want both below %s", tools, dir)
	}
}
