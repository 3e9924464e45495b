package disk_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/store/storetest"
	"container-registry-proxy/test/lack"
)

// envMounts says that this process has mounts of its own.
const envMounts = "DISK_TEST_OWN_MOUNTS"

// ownMounts runs the rest of a test in a process that has mounts of its own, which end with it. It reports whether this
// is that process.
func ownMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv(envMounts) != "" {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), envMounts+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		lack.Of(t, "the right to have mounts of its own")
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	return false
}

// tmpfs mounts a small file system.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// free is the free space and the number of free inodes.
func free(t *testing.T, dir string) (bytes int64, inodes uint64) {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize, st.Ffree
}

// ballast fills the file system up to so many bytes.
func ballast(t *testing.T, dir string, leave int64) (remove func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	left, _ := free(t, dir)
	if err := os.WriteFile(path, make([]byte, left-leave), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// wantsRefused asserts that a blob is not kept, that the store says why, and that nothing of the attempt stays.
func wantsRefused(t *testing.T, s *disk.Store, data []byte) {
	t.Helper()
	if _, err := storetest.TryPut(t, s, data); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("put: %v, want a lack of space", err)
	}
	if u := s.Usage(); u.Degraded == "" || u.Staged != 0 {
		t.Errorf("usage %+v", u)
	}
}

// wantsRecovered asserts that the store works again by itself.
func wantsRecovered(t *testing.T, s *disk.Store, data []byte) {
	t.Helper()
	if !s.Retry() {
		t.Fatalf("not recovered: %+v", s.Usage())
	}
	storetest.Put(t, s, data)
	storetest.Wants(t, s, data)
	if u := s.Usage(); u.Degraded != "" {
		t.Errorf("usage %+v", u)
	}
}

// The disk is smaller than the limit: what is reserved for others stays free, and all is kept that has room.
func TestReservedFreeSpace(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	dir := tmpfs(t, "size=16m")
	const reserved = 3 << 20
	s := open(t, disk.Config{Directory: dir, MinFree: reserved})
	for i := range 60 {
		data := storetest.Bytes(uint64(i), 400_000+i*10_000)
		storetest.Put(t, s, data)
		storetest.Wants(t, s, data)
		if left, _ := free(t, dir); left < reserved {
			t.Fatalf("%d bytes are left to others", left)
		}
	}
	if u := s.Usage(); u.Bytes < 8<<20 {
		t.Errorf("too much was evicted: %+v", u)
	}

	// Others take more: it is given to them.
	remove := ballast(t, dir, 1<<20)
	s.Upkeep()
	if left, _ := free(t, dir); left < reserved {
		t.Errorf("%d bytes are left to others after they took more", left)
	}
	remove()

	// Others take all: the cache gives way as long as that leaves them what is reserved. What would not do is kept.
	for {
		u := s.Usage()
		ballast(t, dir, 0)
		s.Upkeep()
		if err := os.Rename(filepath.Join(dir, "ballast"), filepath.Join(dir, fmt.Sprint("ballast ", u.Blobs))); err != nil {
			t.Fatal(err)
		}
		if s.Usage().Blobs == u.Blobs {
			break
		}
	}
	if u := s.Usage(); u.Bytes == 0 || u.Bytes > reserved || u.Degraded == "" {
		t.Errorf("after others took all: %+v, want less than what is reserved, and the reason why nothing new is kept", u)
	}
	wantsRefused(t, s, storetest.Bytes(1, 100_000))
	if s.Retry() {
		t.Error("recovered on a full disk")
	}
	files, err := filepath.Glob(filepath.Join(dir, "ballast *"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	wantsRecovered(t, s, storetest.Bytes(1, 100_000))
}

// The disk fills up while a blob is being written: what is there is evicted for it, and if that does not do, the rest of
// the pull passes through.
func TestDiskFillsUp(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	dir := tmpfs(t, "size=16m")
	s := open(t, disk.Config{Directory: dir})
	old, large := storetest.Bytes(1, 2_000_000), storetest.Bytes(2, 5_000_000)
	storetest.Put(t, s, old)
	st := storetest.Stage(t, s, large)
	storetest.Write(t, st, large, 0, 1_000_000)
	remove := ballast(t, dir, 0)
	storetest.Write(t, st, large, 1_000_000, 2_500_000)
	if u := s.Usage(); u.Blobs != 0 || u.Degraded != "" {
		t.Errorf("nothing was evicted: %+v", u)
	}
	if _, err := st.WriteAt(large[2_500_000:], 2_500_000); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("write: %v", err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	if u := s.Usage(); u.Degraded == "" {
		t.Errorf("usage %+v", u)
	}
	storetest.Put(t, s, old) // what was left gives way to it
	if u := s.Usage(); u.Blobs != 1 || u.Staged != 0 {
		t.Errorf("usage %+v", u)
	}
	remove()
	wantsRecovered(t, s, large)
	if err := s.Audit(); err != nil {
		t.Error(err)
	}
}

func TestInodesRunOut(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	dir := tmpfs(t, "size=64m,nr_inodes=400") // the directories of blobs take 256
	s := open(t, disk.Config{Directory: dir})
	for i := range 600 {
		storetest.Put(t, s, storetest.Bytes(uint64(i), 100))
	}
	if u := s.Usage(); u.Degraded != "" || u.Blobs < 50 {
		t.Errorf("usage %+v", u)
	}
	if err := s.Audit(); err != nil {
		t.Error(err)
	}

	// Others take them all.
	others := filepath.Join(dir, "others")
	if err := os.Mkdir(others, 0o755); err != nil {
		for i := 0; ; i++ { // none is left even for that
			if err := s.Remove(oci.FromBytes(storetest.Bytes(uint64(i), 100))); err != nil {
				t.Fatal(err)
			}
			if os.Mkdir(others, 0o755) == nil {
				break
			}
		}
	}
	for i := 0; ; i++ {
		f, err := os.Create(filepath.Join(others, fmt.Sprint(i)))
		if err == nil {
			_ = f.Close()
			continue
		}
		if s.Usage().Blobs == 0 {
			break
		}
		if err := s.Remove(last(t, s)); err != nil {
			t.Fatal(err)
		}
	}
	wantsRefused(t, s, []byte("no inode is left"))
	if s.Retry() {
		t.Error("recovered without inodes")
	}
	if err := os.RemoveAll(others); err != nil {
		t.Fatal(err)
	}
	wantsRecovered(t, s, []byte("there are inodes again"))
}

// last is a digest that the store of TestInodesRunOut has.
func last(t *testing.T, s *disk.Store) oci.Digest {
	t.Helper()
	for i := range 600 {
		d := oci.FromBytes(storetest.Bytes(uint64(i), 100))
		if b, err := s.Open(d); err == nil {
			_ = b.Close()
			return d
		}
	}
	t.Fatal("none is there")
	return ""
}

// A cache directory may come full from the program that was there before. The store starts, keeps nothing, and begins to
// once there is room.
func TestStartOnFullDisk(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	dir := tmpfs(t, "size=16m")
	object := filepath.Join(dir, "c", "29", "b7f54b2df7773722d382f4809d65029c")
	if err := os.MkdirAll(filepath.Dir(object), 0o755); err != nil {
		t.Fatal(err)
	}
	ballast(t, dir, 0)
	if err := os.Rename(filepath.Join(dir, "ballast"), object); err != nil {
		t.Fatal(err)
	}
	s := open(t, disk.Config{Directory: dir})
	data := storetest.Bytes(1, 100_000)
	s.DB().Put("tags", "k", []byte("v"))
	if err := s.DB().Flush(); err != nil {
		t.Errorf("the database does not work: %v", err)
	}
	wantsRefused(t, s, data)
	s.Survey(t.Context())
	if files, _ := s.Foreign(); files != 1 {
		t.Errorf("%d files of nginx", files)
	}
	if s.Retry() {
		t.Error("recovered on a full disk")
	}
	if err := os.Remove(object); err != nil {
		t.Fatal(err)
	}
	wantsRecovered(t, s, data)
	if value, _ := s.DB().Get("tags", "k"); string(value) != "v" {
		t.Errorf("the database has forgotten: %q", value)
	}
	if _, err := disk.Open(disk.Config{Directory: dir, MaxSize: 1, LockWait: 1}); err == nil {
		t.Error("a second process takes the directory")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, disk.Config{Directory: dir})
	storetest.Wants(t, s, data)
}

func TestStartOnReadOnlyDisk(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	dir := tmpfs(t, "size=16m,ro")
	s := open(t, disk.Config{Directory: dir})
	data := storetest.Bytes(1, 100_000)
	wantsRefused(t, s, data)
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	wantsRecovered(t, s, data)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
