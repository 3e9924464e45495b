package disk_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/store/storetest"
)

// loopDisk is an ext4 file system in a file, whose power can be cut.
type loopDisk struct {
	t          *testing.T
	image, dir string
}

func newLoopDisk(t *testing.T) *loopDisk {
	t.Helper()
	d := &loopDisk{t: t, image: filepath.Join(t.TempDir(), "image"), dir: t.TempDir()}
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, 512<<20)); err != nil {
		t.Fatal(err)
	}
	d.command("mkfs.ext4", "-qF", d.image)
	d.command("mount", "-o", "loop", d.image, d.dir)
	t.Cleanup(func() { d.command("umount", d.dir) })
	return d
}

func (d *loopDisk) command(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// cut is FS_IOC_SHUTDOWN without a flush of the journal: nothing more is written, as when the power goes.
func (d *loopDisk) cut() {
	d.t.Helper()
	f, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	const shutdown, withoutFlush = 0x8004587d, 2
	flag := uint32(withoutFlush)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flag))); errno != 0 {
		d.t.Fatalf("cut the power: %v", errno)
	}
}

// restore mounts the file system again, which replays its journal.
func (d *loopDisk) restore() {
	d.t.Helper()
	d.command("umount", d.dir)
	d.command("mount", "-o", "loop", d.image, d.dir)
}

// The power goes while blobs of all sizes are staged and committed. What had been committed is there, small blobs from
// the next upkeep on; no byte is wrong, and what staging is said to hold, it holds. Run with LONG=1, as root.
func TestPowerCut(t *testing.T) {
	if !long() {
		t.Skip("set LONG=1: it takes a minute, and needs root, mount and mkfs.ext4")
	}
	if !ownMounts(t) {
		return
	}
	d := newLoopDisk(t)
	wantsCutsToLose(t, d)
	r := storetest.Seeded(t)
	var total work
	for round := range 40 {
		dir := filepath.Join(d.dir, fmt.Sprint("cache ", round))
		w := &workload{cut: true, seed: r.Uint64(), cfg: disk.Config{Directory: dir, MaxSize: 1 << 30}}
		err := w.run(func() {
			time.Sleep(time.Duration(50+r.IntN(1500)) * time.Millisecond) // some work gets done
			d.cut()
		})
		if err != nil {
			t.Fatal(err)
		}
		d.restore()
		w.did.check(t, w.cfg)
		total.add(w.did)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d blobs committed and found, %d more found, %d bytes resumed", len(total.committed), total.found-len(total.committed), total.resumed)
	if len(total.committed) == 0 || total.resumed == 0 {
		t.Error("nothing was at stake")
	}
}

// wantsCutsToLose checks the test itself: a file that was renamed without being synced is lost or empty.
func wantsCutsToLose(t *testing.T, d *loopDisk) {
	t.Helper()
	path := filepath.Join(d.dir, "unsynced")
	if err := errors.Join(os.WriteFile(path+".tmp", storetest.Bytes(1, 1<<20), 0o600), os.Rename(path+".tmp", path)); err != nil {
		t.Fatal(err)
	}
	d.cut()
	d.restore()
	if b, err := os.ReadFile(path); err == nil && len(b) == 1<<20 {
		t.Fatal("what was not synced survives: this cuts no power")
	}
}
