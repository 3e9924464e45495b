package disk_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/store/storetest"
)

// run runs a store until the test ends, or stop is called.
func run(t *testing.T, s *disk.Store) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return stop
}

// The second process waits, and is told who has the directory.
func TestOneProcessAtATime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, disk.Config{Directory: dir})
	_, err := disk.Open(disk.Config{Directory: dir, MaxSize: 1 << 30, LockWait: 100 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "process ") || !strings.Contains(err.Error(), dir) {
		t.Fatalf("a second process: %v, want the holder's name", err)
	}

	// The first one gives the directory up with blobs and stages open.
	data, more := storetest.Bytes(1, 100_000), storetest.Bytes(2, 100_000)
	b, err := first.Open(storetest.Put(t, first, data))
	if err != nil {
		t.Fatal(err)
	}
	st := storetest.Stage(t, first, more)
	opened := make(chan *disk.Store)
	go func() {
		s, err := disk.Open(disk.Config{Directory: dir, MaxSize: 1 << 30})
		if err != nil {
			t.Error(err)
		}
		opened <- s
	}()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := <-opened
	defer second.Close()
	storetest.WantsBytes(t, b, data)
	storetest.Wants(t, first, data)
	storetest.Write(t, st, more, 0, len(more))
	before := list(t, dir)
	if err := st.Commit(t.Context(), storetest.Prove(t, more)); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("commit after the directory was given up: %v", err)
	}
	if _, err := first.Stage(oci.FromBytes([]byte("x")), 1); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("stage after the directory was given up: %v", err)
	}
	if err := first.Remove(oci.FromBytes(data)); err == nil {
		t.Error("removed after the directory was given up")
	}
	if err := errors.Join(st.Close(), b.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	if after := list(t, dir); before != after {
		t.Errorf("the directory was changed after it had been given up: %s, was %s", after, before)
	}
	storetest.Wants(t, second, data)
	if err := second.Audit(); err != nil {
		t.Error(err)
	}
}

// list are the files of a directory.
func list(t *testing.T, dir string) string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		found = append(found, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(found, " ")
}

func TestLayoutOfAnotherVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "VERSION"), []byte("7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Open(disk.Config{Directory: dir, MaxSize: 1}); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("opened: %v", err)
	}
}

// Our own files may not be links to those of others, which would be overwritten.
func TestLinksAtTheTop(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"lock", "VERSION", "metadata.db"} {
		dir := t.TempDir()
		target := filepath.Join(t.TempDir(), "precious")
		if err := errors.Join(os.WriteFile(target, []byte("precious"), 0o644), os.Symlink(target, filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
		if _, err := disk.Open(disk.Config{Directory: dir, MaxSize: 1}); err == nil {
			t.Errorf("%s: opened", name)
		}
		if got, err := os.ReadFile(target); err != nil || string(got) != "precious" {
			t.Errorf("%s: the file it leads to has %q, %v", name, got, err)
		}
	}
}

// The objects of nginx are counted and named with the command that removes them; they stay.
func TestForeignObjectsAreReported(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for path, size := range map[string]int{
		"c/29/b7f54b2df7773722d382f4809d65029c": 1000, "c/29/b7f54b2df7773722d382f4809d65029d": 500,
		"0/00/00000000000000000000000000000000.0000000012": 7, // being written when nginx was ended
		"c/29/readme": 9, "c/note": 9, "etc/29/b7f54b2df7773722d382f4809d65029c": 9,
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, make([]byte, size), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	before := list(t, dir)
	var log bytes.Buffer
	s := open(t, disk.Config{Directory: dir, Log: slog.New(slog.NewTextHandler(&log, nil))})
	s.Survey(t.Context())
	if files, size := s.Foreign(); files != 3 || size != 1507 {
		t.Errorf("%d files of %d bytes", files, size)
	}
	for _, path := range strings.Fields(before) {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
	command := `rm -rf '` + dir + `'/[0-9a-f]`
	if !strings.Contains(log.String(), command) || !strings.Contains(log.String(), "1507") {
		t.Fatalf("the log does not say how to remove them: %s", &log)
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v %s", command, err, out)
	}
	s.Survey(t.Context())
	if files, _ := s.Foreign(); files != 0 {
		t.Errorf("%d files after %s", files, command)
	}
	storetest.Put(t, s, []byte("the store is as it was"))
	if _, err := os.Lstat(filepath.Join(dir, "etc/29/b7f54b2df7773722d382f4809d65029c")); err != nil {
		t.Error(err)
	}
}

// Losing the database costs hashing, nothing else. What is found by walking is the same as what the database had.
func TestDatabaseLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, disk.Config{Directory: dir})
	var blobs [][]byte
	for i := range 20 {
		blobs = append(blobs, storetest.Bytes(uint64(i), 10_000*i))
		storetest.Put(t, s, blobs[i])
	}
	before := s.Usage()
	if err := errors.Join(s.Close(), os.Remove(filepath.Join(dir, "metadata.db"))); err != nil {
		t.Fatal(err)
	}
	s = open(t, disk.Config{Directory: dir})
	storetest.Wants(t, s, blobs[7]) // before anything was walked
	s.Survey(t.Context())
	if after := s.Usage(); after != before {
		t.Errorf("usage %+v, was %+v", after, before)
	}
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() { storetest.Wants(t, s, blobs[i%len(blobs)]) })
	}
	all.Wait()
	if err := s.Audit(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, disk.Config{Directory: dir})
	if after := s.Usage(); after != before {
		t.Errorf("after another restart usage %+v, was %+v", after, before)
	}
}

// Files that have gone while nobody looked are taken off the account.
func TestFilesGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, disk.Config{Directory: dir})
	for i := range 10 {
		storetest.Put(t, s, storetest.Bytes(uint64(i), 10_000))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if err := os.Remove(s.BlobPath(oci.FromBytes(storetest.Bytes(uint64(i), 10_000)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Dir(s.BlobPath(oci.FromBytes(storetest.Bytes(9, 10_000))))); err != nil {
		t.Fatal(err)
	}
	s = open(t, disk.Config{Directory: dir})
	s.Survey(t.Context())
	if u := s.Usage(); u.Blobs != 5 {
		t.Errorf("usage %+v", u)
	}
	if err := s.Audit(); err != nil {
		t.Error(err)
	}
}

// Run does its work by itself: uses and what is staged become durable, a disk that works again is found, and what nobody
// asks for goes.
func TestRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{err: syscall.EIO}
		s, err := disk.OpenFaulty(disk.Config{Directory: dir, MaxSize: 1 << 30, Inactive: time.Hour}, f.step)
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, s)
		used, unused, large := storetest.Bytes(1, 1000), storetest.Bytes(2, 1000), storetest.Bytes(3, 3_000_000)
		storetest.Put(t, s, used)
		storetest.Put(t, s, unused)
		st := storetest.Stage(t, s, large)
		storetest.Write(t, st, large, 0, 2_000_000)
		for range 8 {
			time.Sleep(10 * time.Minute)
			storetest.Wants(t, s, used)
		}
		if _, err := s.Open(oci.FromBytes(unused)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a blob that nobody asked for in 80 minutes: %v", err)
		}
		f.to.Store(never)
		if _, err := storetest.TryPut(t, s, unused); !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("put: %v", err)
		}
		time.Sleep(time.Minute)
		if s.Usage().Degraded == "" {
			t.Error("not degraded while the disk fails")
		}
		f.to.Store(0)
		time.Sleep(30 * time.Second)
		if u := s.Usage(); u.Degraded != "" {
			t.Errorf("30 s after the disk works again: %s", u.Degraded)
		}
		storetest.Put(t, s, unused)
		stop()
		if err := errors.Join(s.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	})
	s := open(t, disk.Config{Directory: dir})
	large := storetest.Bytes(3, 3_000_000)
	storetest.WantsExtents(t, storetest.Stage(t, s, large), store.Extent{Start: 0, End: 2_000_000})
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	s := open(t, disk.Config{Directory: t.TempDir(), MaxSize: 4 << 20, Registerer: reg})
	for i := range 5 {
		storetest.Put(t, s, storetest.Bytes(uint64(i), 1<<20))
	}
	d := oci.FromBytes(storetest.Bytes(4, 1<<20))
	change(t, s.BlobPath(d), func(b []byte) []byte { b[5]++; return b })
	wantsNoWrongByte(t, s, d, storetest.Bytes(4, 1<<20))
	st := storetest.Stage(t, s, storetest.Bytes(9, 4096))
	storetest.Write(t, st, storetest.Bytes(9, 4096), 0, 4096)
	want := map[string]float64{
		"store_blobs": 2, "store_bytes": 2 << 20, "store_limit_bytes": 4 << 20, "store_staged_bytes": 4096, "store_degraded": 0,
		"store_checkpoints_total": 0, "store_damaged_total": 1, "store_evicted_blobs_total limit": 2, "store_evicted_blobs_total free_space": 0,
		"store_evicted_blobs_total inactive": 0, "store_evicted_bytes_total limit": 2 << 20,
		"store_evicted_bytes_total free_space": 0, "store_evicted_bytes_total inactive": 0,
	}
	if diff := cmp.Diff(want, gathered(t, reg)); diff != "" {
		t.Error(diff)
	}
}

// gathered are the values of all metrics, by name and the value of their label.
func gathered(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}
