package disk_test

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/store/storetest"
)

// steps notes the operations of the disk, and fails those of one kind.
type steps struct {
	mu    sync.Mutex
	seen  []string
	fails string
}

func (s *steps) at(step string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, step)
	if step == s.fails {
		return syscall.EIO
	}
	return nil
}

// count is how often an operation was seen since it was counted last.
func (s *steps) count(step string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seen := range s.seen {
		if seen == step {
			n++
		}
	}
	s.seen = slices.DeleteFunc(s.seen, func(seen string) bool { return seen == step })
	return n
}

// However many small blobs are committed, one sync makes them durable; where there are none, there is none.
func TestSmallBlobsAreSyncedTogether(t *testing.T) {
	t.Parallel()
	var done steps
	s, err := disk.OpenFaulty(disk.Config{Directory: t.TempDir(), MaxSize: 1 << 30}, done.at)
	if err != nil {
		t.Fatal(err)
	}
	put := func(from, n int) {
		for i := range n {
			storetest.Put(t, s, storetest.Bytes(uint64(from+i), 1+i*1000))
		}
	}
	put(0, 30)
	if files, dirs := done.count("fsync"), done.count("syncdir"); files+dirs > 0 {
		t.Errorf("%d files and %d directories were synced on their own", files, dirs)
	}
	for _, want := range []int{1, 0} {
		s.Upkeep()
		if n := done.count("syncall"); n != want {
			t.Errorf("synced %d times, want %d", n, want)
		}
	}
	put(100, 2)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := done.count("syncall"); n != 1 {
		t.Errorf("synced %d times at the end, want once", n)
	}
}

// Where the sync fails, the store says so; the blobs that it concerned are checked like any others.
func TestFailedSyncOfSmallBlobs(t *testing.T) {
	t.Parallel()
	faults := steps{fails: "syncall"}
	s, err := disk.OpenFaulty(disk.Config{Directory: t.TempDir(), MaxSize: 1 << 30}, faults.at)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sound, lost := storetest.Bytes(1, 4096), storetest.Bytes(2, 4096)
	storetest.Put(t, s, sound)
	storetest.Put(t, s, lost)
	s.Upkeep()
	if s.Usage().Degraded == "" {
		t.Error("nobody is told")
	}
	change(t, s.BlobPath(oci.FromBytes(lost)), func(b []byte) []byte { clear(b); return b })
	storetest.Wants(t, s, sound)
	if _, err := s.Open(oci.FromBytes(lost)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was lost is opened: %v", err)
	}
	if s.Retry(); s.Usage().Degraded != "" {
		t.Error("the disk works again and the store does not")
	}
}

// A file of which the index knows nothing, whole or not, is no obstacle to the commit of the blob that has its name.
func TestASmallBlobTakesThePlaceOfDebris(t *testing.T) {
	t.Parallel()
	s := open(t, disk.Config{Directory: t.TempDir()})
	data := storetest.Bytes(1, 4096)
	d := storetest.Put(t, s, data)
	path := s.BlobPath(d)
	for _, debris := range [][]byte{nil, data[:100], data, make([]byte, 4096)} {
		st := storetest.Stage(t, s, data)
		storetest.Write(t, st, data, 0, len(data))
		if err := s.Remove(d); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, debris, 0o444); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(st.Commit(t.Context(), storetest.Prove(t, data)), st.Close()); err != nil {
			t.Fatal(err)
		}
		storetest.Wants(t, s, data)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm()&0o222 != 0 {
		t.Errorf("the file can be written: %v, %v", info.Mode(), err)
	}
	if err := s.Audit(); err != nil {
		t.Error(err)
	}
}
