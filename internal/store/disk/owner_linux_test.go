package disk

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"container-registry-proxy/internal/store/storetest"
	"container-registry-proxy/test/lack"
)

// A directory may have been filled by another user, as by the originals' root. What can be read of it is given out.
func TestSmallBlobOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		lack.Of(t, "root")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Directory: dir, MaxSize: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := storetest.Bytes(1, 1000)
	d := storetest.Put(t, s, want)
	got := make([]byte, len(want))
	read := make(chan error)
	go func() {
		runtime.LockOSThread() // and end the thread, which is nobody's from here on
		if err := syscall.Setfsuid(65534); err != nil {
			read <- err
			return
		}
		b, err := s.Open(d)
		if err == nil {
			_, err = b.ReadAt(got, 0)
		}
		read <- err
	}()
	if err := <-read; err != nil || string(got) != string(want) {
		t.Errorf("other bytes, or %v", err)
	}
}
