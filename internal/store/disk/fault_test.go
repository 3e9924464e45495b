package disk_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/store/storetest"
)

// faulty is a disk that fails from one operation to another.
type faulty struct {
	ops, from, to atomic.Int64
	err           error
	of            string // only operations of this kind; "" means all
}

func (f *faulty) step(name string) error {
	if f.of != "" && f.of != name {
		return nil
	}
	if n := f.ops.Add(1); n >= f.from.Load() && n < f.to.Load() {
		return &os.PathError{Op: name, Path: "disk", Err: f.err}
	}
	return nil
}

const never = 1 << 40

// Any operation may fail, once or from then on. No wrong byte is read, what is committed stays, every error is a lack of
// space, and once the disk works again the store does.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	steps := operations(t)
	for _, c := range []struct {
		name   string
		length int64
		errno  syscall.Errno
		long   bool
	}{
		{"no space, once", 1, syscall.ENOSPC, false},
		{"no space, for a while", 10, syscall.ENOSPC, true},
		{"no space from then on", never, syscall.ENOSPC, false},
		{"an I/O error, once", 1, syscall.EIO, false},
		{"I/O errors for a while", 10, syscall.EIO, true},
		{"I/O errors from then on", never, syscall.EIO, false},
		{"read-only for a while", 10, syscall.EROFS, false},
		{"read-only from then on", never, syscall.EROFS, true},
	} {
		if c.long && !long() {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, at := range pick(t, steps) {
				if steps[at-1] != "take" {
					failAt(t, int64(at), c.length, c.errno)
				}
				if t.Failed() {
					t.Fatalf("failed at operation %d, %s", at, steps[at-1])
				}
			}
		})
	}
}

func failAt(t *testing.T, at, length int64, errno error) {
	dir := memoryDir(t)
	f := &faulty{err: errno}
	f.from.Store(at)
	f.to.Store(at + length)
	s, err := disk.OpenFaulty(scriptConfig(dir), f.step)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	run := script{store: s, wrong: t.Errorf, said: func(what string) { said = append(said, what) }, step: func(string) {}}
	run.run()
	f.to.Store(0)
	s.Retry()
	if u := s.Usage(); u.Degraded != "" {
		t.Errorf("the disk works again and the store does not: %s", u.Degraded)
	}
	run.run()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	s = open(t, scriptConfig(dir))
	wantsScriptState(t, s, said)
	if err := errors.Join(s.Close(), os.RemoveAll(dir)); err != nil {
		t.Error(err)
	}
}

// A file that could not be synced is not synced again, since the second attempt would say that all is well; it is never
// seen under its name.
func TestFailedSync(t *testing.T) {
	t.Parallel()
	f := &faulty{err: syscall.EIO, of: "fsync"}
	f.from.Store(1)
	f.to.Store(2)
	dir := t.TempDir()
	s, err := disk.OpenFaulty(disk.Config{Directory: dir, MaxSize: 1 << 30}, f.step)
	if err != nil {
		t.Fatal(err)
	}
	data := storetest.Bytes(1, 3_000_000)
	st := storetest.Stage(t, s, data)
	storetest.Write(t, st, data, 0, len(data))
	path := disk.StagedPath(st)
	for range 2 {
		if err := st.Commit(t.Context(), storetest.Prove(t, data)); !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("commit: %v", err)
		}
	}
	if n := f.ops.Load(); n != 1 {
		t.Errorf("synced %d times", n)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file stays: %v", err)
	}
	if u := s.Usage(); u.Degraded == "" {
		t.Error("the store does not say that it is degraded")
	}
	got := make([]byte, len(data))
	if _, err := st.ReadAt(got, 0); err != nil || string(got) != string(data) {
		t.Errorf("the stage cannot be read: %v", err)
	}
	if err := errors.Join(st.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	s = open(t, disk.Config{Directory: dir})
	if _, err := s.Open(oci.FromBytes(data)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
	storetest.WantsExtents(t, storetest.Stage(t, s, data))
}

// The records of what is staged never say more than what has been synced.
func TestStagedIsRecordedAfterItIsSynced(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, s *disk.Store, st store.Stage){
		"closed, then the store": func(t *testing.T, s *disk.Store, st store.Stage) {
			if err := errors.Join(st.Close(), s.Close()); err != nil {
				t.Error(err)
			}
		},
		"the store, then closed": func(t *testing.T, s *disk.Store, st store.Stage) {
			if err := errors.Join(s.Close(), st.Close()); err != nil {
				t.Error(err)
			}
		},
		"upkeep": func(t *testing.T, s *disk.Store, st store.Stage) {
			s.Upkeep()
			if err := errors.Join(st.Close(), s.Close()); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			f := &faulty{err: syscall.EIO, of: "fsync"}
			s, err := disk.OpenFaulty(disk.Config{Directory: dir, MaxSize: 1 << 30}, f.step)
			if err != nil {
				t.Fatal(err)
			}
			data := storetest.Bytes(1, 6_000_000)
			st := storetest.Stage(t, s, data)
			storetest.Write(t, st, data, 0, 2_000_000)
			s.Upkeep()
			storetest.Write(t, st, data, 3_000_000, 5_000_000)
			f.to.Store(never) // nothing is synced any more
			end(t, s, st)
			s = open(t, disk.Config{Directory: dir})
			st = storetest.Stage(t, s, data)
			staged := store.Extents(st.Staged())
			if more := staged.Without(store.Extents{{Start: 0, End: 2_000_000}}); len(more) > 0 {
				t.Errorf("%v is believed, which was not synced", more)
			}
			storetest.WantsStaged(t, st, data)
		})
	}
}

// With sound disks a process that ends leaves all of it, and one that is drained with stages open what it had by then.
func TestStagedOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := storetest.Bytes(1, 6_000_000)
	s := open(t, disk.Config{Directory: dir})
	st := storetest.Stage(t, s, data)
	storetest.Write(t, st, data, 1_000_000, 3_000_000)
	if err := errors.Join(st.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}

	s = open(t, disk.Config{Directory: dir})
	st = storetest.Stage(t, s, data)
	storetest.WantsExtents(t, st, store.Extent{Start: 1_000_000, End: 3_000_000})
	storetest.Write(t, st, data, 0, 1_000_000)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	next := open(t, disk.Config{Directory: dir})
	taken := storetest.Stage(t, next, data)
	storetest.WantsExtents(t, taken, store.Extent{Start: 0, End: 3_000_000})
	// The next process may get other bytes from its registry; the drained one must not see them.
	if _, err := taken.WriteAt(make([]byte, 1_000_000), 3_000_000); err != nil {
		t.Fatal(err)
	}
	storetest.Write(t, st, data, 3_000_000, 6_000_000)
	got := make([]byte, len(data))
	if _, err := st.ReadAt(got, 0); err != nil || string(got) != string(data) {
		t.Errorf("the drained process reads otherwise: %v", err)
	}
	if err := st.Commit(context.Background(), storetest.Prove(t, data)); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("commit after the directory was given up: %v", err)
	}
	if err := errors.Join(st.Close(), taken.Discard()); err != nil {
		t.Error(err)
	}
	storetest.Put(t, next, data)
	storetest.Wants(t, next, data)
	if err := next.Audit(); err != nil {
		t.Error(err)
	}
}
