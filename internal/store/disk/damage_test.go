package disk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/store/storetest"
)

// change rewrites a blob's file in place, as a failing disk or somebody with a shell does.
func change(t *testing.T, path string, how func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, how(bytes.Clone(b)), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// damages are ways in which a file goes wrong without the file system's saying so.
func damages() map[string]func([]byte) []byte {
	return map[string]func([]byte) []byte{
		"a bit flipped at the start":  func(b []byte) []byte { b[0] ^= 1; return b },
		"a bit flipped in the middle": func(b []byte) []byte { b[len(b)/2] ^= 128; return b },
		"a bit flipped at the end":    func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"a page of zeros":             func(b []byte) []byte { clear(b[8192:12288]); return b },
		"all zeros":                   func(b []byte) []byte { clear(b); return b },
		"cut short":                   func(b []byte) []byte { return b[:len(b)/2] },
		"empty":                       func([]byte) []byte { return nil },
		"longer":                      func(b []byte) []byte { return append(b, 0) },
		"another blob's bytes":        func(b []byte) []byte { return storetest.Bytes(99, len(b)) },
	}
}

// A damaged file gives no byte away that is not the blob's, is gone afterwards, and can be put again.
func TestDamageIsAMiss(t *testing.T) {
	t.Parallel()
	for _, size := range []int{300_000, 20_000} {
		for name, damage := range damages() {
			damageIsAMiss(t, fmt.Sprintf("%d bytes, %s", size, name), size, damage)
		}
	}
}

func damageIsAMiss(t *testing.T, name string, size int, damage func([]byte) []byte) {
	for when, lose := range map[string]func(t *testing.T, dir string){
		"while it runs":  nil,
		"over a restart": func(*testing.T, string) {},
		"with the database lost": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "metadata.db")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name+" "+when, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			data := storetest.Bytes(1, size)
			s := open(t, disk.Config{Directory: dir})
			d := storetest.Put(t, s, data)
			if lose != nil {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				lose(t, dir)
				s = open(t, disk.Config{Directory: dir})
			}
			change(t, s.BlobPath(d), damage)
			wantsNoWrongByte(t, s, d, data)
			if b, err := s.Open(d); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("opened again: %v, %v", b, err)
			}
			if _, err := os.Lstat(s.BlobPath(d)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the file is still there: %v", err)
			}
			storetest.Put(t, s, data)
			storetest.Wants(t, s, data)
			if err := s.Audit(); err != nil {
				t.Error(err)
			}
		})
	}
}

// wantsNoWrongByte reads a blob in steps. It may be absent or break off; what is read is right.
func wantsNoWrongByte(t *testing.T, s *disk.Store, d oci.Digest, data []byte) {
	t.Helper()
	b, err := s.Open(d)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for at := 0; at < len(data); at += 50_000 {
		p := make([]byte, min(50_000, len(data)-at))
		n, err := b.ReadAt(p, int64(at))
		if !bytes.Equal(p[:n], data[at:at+n]) {
			t.Fatalf("wrong bytes at %d", at)
		}
		if err != nil {
			if !errors.Is(err, store.ErrDamaged) {
				t.Errorf("error does not say that it is damaged: %v", err)
			}
			if !bytes.Equal(p[n:], make([]byte, len(p)-n)) {
				t.Error("unchecked bytes are left in the buffer")
			}
			return
		}
	}
	t.Error("nothing was found to be wrong")
}

// An empty file is debris of a power cut, except where it is the empty blob.
func TestEmptyFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, disk.Config{Directory: dir})
	for i := range 20 {
		d := oci.FromBytes(storetest.Bytes(uint64(i), 10))
		if err := errors.Join(os.MkdirAll(filepath.Dir(s.BlobPath(d)), 0o755), os.WriteFile(s.BlobPath(d), nil, 0o444)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open(d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("an empty file is given out as %s: %v", d, err)
		}
	}
	empty := oci.FromBytes(nil)
	if err := errors.Join(os.MkdirAll(filepath.Dir(s.BlobPath(empty)), 0o755), os.WriteFile(s.BlobPath(empty), nil, 0o444)); err != nil {
		t.Fatal(err)
	}
	storetest.Wants(t, s, nil)
	storetest.Put(t, s, storetest.Bytes(3, 10))
	storetest.Wants(t, s, storetest.Bytes(3, 10))
}

// The directory may hold what is not ours. It is neither followed, waited for, nor removed.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	secret := storetest.Bytes(1, 100_000)
	for name, plant := range map[string]func(t *testing.T, path string) string{
		"a link to a file with the very bytes": func(t *testing.T, path string) string {
			target := filepath.Join(t.TempDir(), "secret")
			if err := errors.Join(os.WriteFile(target, secret, 0o600), os.Symlink(target, path)); err != nil {
				t.Fatal(err)
			}
			return target
		},
		"a link to nowhere": func(t *testing.T, path string) string {
			if err := os.Symlink("/nonexistent/file", path); err != nil {
				t.Fatal(err)
			}
			return path
		},
		"a pipe": func(t *testing.T, path string) string {
			if err := syscall.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		},
		"a directory": func(t *testing.T, path string) string {
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Fatal(err)
			}
			return path
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, disk.Config{Directory: t.TempDir()})
			d := storetest.Put(t, s, secret)
			path := s.BlobPath(d)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			target := plant(t, path)
			before, _ := os.Lstat(path)
			for range 2 {
				if _, err := s.Open(d); !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("opened: %v", err)
				}
				if _, err := storetest.TryPut(t, s, secret); err == nil {
					t.Error("committed over it")
				}
				if err := s.Remove(d); err != nil {
					t.Error(err)
				}
			}
			after, err := os.Lstat(path)
			if err != nil || after.Mode() != before.Mode() || !os.SameFile(before, after) {
				t.Errorf("it was touched: %v", err)
			}
			if _, err := os.Lstat(target); err != nil {
				t.Errorf("what it leads to was touched: %v", err)
			}
			if u := s.Usage(); u.Degraded != "" || u.Blobs != 0 || u.Staged != 0 {
				t.Errorf("usage %+v", u)
			}
		})
	}
}

// A directory of blobs that is a link leads out of ours.
func TestLinkedDirectories(t *testing.T) {
	t.Parallel()
	data := storetest.Bytes(1, 100_000)
	d := oci.FromBytes(data)
	elsewhere := t.TempDir()
	file := filepath.Join(elsewhere, d.Hex())
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	shard := filepath.Join(dir, "blobs", "sha256", d.Hex()[:2])
	if err := errors.Join(os.MkdirAll(filepath.Dir(shard), 0o755), os.Symlink(elsewhere, shard)); err != nil {
		t.Fatal(err)
	}
	s := open(t, disk.Config{Directory: dir})
	if _, err := s.Open(d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened: %v", err)
	}
	if _, err := storetest.TryPut(t, s, data); err == nil {
		t.Error("committed")
	}
	if err := s.Remove(d); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file elsewhere was touched: %v", err)
	}
	if err := errors.Join(os.Rename(filepath.Join(dir, "blobs"), filepath.Join(dir, "others")), os.Symlink("others", filepath.Join(dir, "blobs"))); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := disk.Open(disk.Config{Directory: dir, MaxSize: 1}); err == nil {
		t.Errorf("took a directory whose blobs are a link: %v", s.Close())
	}
}

// Strangers in staging are left alone; files of ours that no record tells of go.
func TestStrangersInStaging(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := storetest.Bytes(1, 100_000)
	d := oci.FromBytes(data)
	if err := os.MkdirAll(filepath.Join(dir, "staging"), 0o755); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "outside")
	orphan := filepath.Join(dir, "staging", "sha256-"+d.Hex()+".123")
	linked := filepath.Join(dir, "staging", "sha256-"+d.Hex()+".456")
	notes := filepath.Join(dir, "staging", "notes.txt")
	if err := errors.Join(os.WriteFile(outside, data, 0o600), os.WriteFile(orphan, data, 0o600), os.Symlink(outside, linked), os.WriteFile(notes, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	s := open(t, disk.Config{Directory: dir})
	if _, err := os.Lstat(orphan); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an orphan stays: %v", err)
	}
	for _, path := range []string{outside, linked, notes} {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
	storetest.WantsExtents(t, storetest.Stage(t, s, data))
}

// Somebody may empty the directory of a running store.
func TestEmptiedDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, disk.Config{Directory: dir})
	data := storetest.Bytes(1, 200_000)
	d := storetest.Put(t, s, data)
	b, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	storetest.WantsBytes(t, b, data)
	if _, err := s.Open(d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened: %v", err)
	}
	storetest.Put(t, s, data)
	storetest.Wants(t, s, data)
	if u := s.Usage(); u.Degraded != "" || u.Blobs != 1 {
		t.Errorf("usage %+v", u)
	}
}

// Records are hints: whatever they say, nothing is given out that is not the blob, and nothing staged is believed that
// cannot be there.
func TestRecordsAreNotTrusted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data, partial := storetest.Bytes(1, 200_000), storetest.Bytes(2, 200_000)
	s := open(t, disk.Config{Directory: dir})
	d, p := storetest.Put(t, s, data), oci.FromBytes(partial)
	st := storetest.Stage(t, s, partial)
	storetest.Write(t, st, partial, 0, 100_000)
	name := filepath.Base(disk.StagedPath(st))
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for bucket, values := range map[string][]string{
		"blobs": {"", "x", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"},
		"sums":  {"", "x", "\x00\x00\x00\x00", strings.Repeat("\x00", 32), strings.Repeat("\x00", 33)},
		"staged": {
			"", "{}", "null", `{"name":"` + name + `","size":200000,"have":[{"Start":0,"End":200000}]}`,
			`{"name":"` + name + `","size":200000,"have":[{"Start":-5,"End":10}]}`, `{"name":"` + name + `","size":200000,"have":[{"Start":10,"End":10}]}`,
			`{"name":"` + name + `","size":200000,"have":[{"Start":10,"End":20},{"Start":15,"End":30}]}`,
			`{"name":"../blobs/sha256/` + d.Hex()[:2] + "/" + d.Hex() + `","size":200000,"have":[{"Start":0,"End":200000}]}`,
			`{"name":"sha256-` + d.Hex() + `.1/../../x","size":200000,"have":[{"Start":0,"End":200000}]}`,
		},
	} {
		for _, value := range values {
			s := open(t, disk.Config{Directory: dir})
			for _, key := range []string{string(d), string(p), "sha256:../../x", ""} {
				if key != "" {
					s.DB().Put(bucket, key, []byte(value))
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, disk.Config{Directory: dir})
			if bucket == "staged" {
				storetest.WantsExtents(t, storetest.Stage(t, s, partial))
			}
			b, err := s.Open(d)
			if err != nil {
				if _, err := storetest.TryPut(t, s, data); err != nil {
					t.Fatal(err)
				}
				b, err = s.Open(d)
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.ReadAt(make([]byte, b.Size()), 0); err == nil {
				storetest.WantsBytes(t, b, data)
			}
			if err := errors.Join(b.Close(), s.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Versions before kept CRC-32C, 4 bytes a chunk. A blob of theirs is hashed once more, and is as good as one of ours.
func TestSumsOfVersionsBefore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := storetest.Bytes(1, 200_000)
	s := open(t, disk.Config{Directory: dir})
	d := storetest.Put(t, s, data)
	own, _ := s.DB().Get("sums", string(d))
	var before []byte
	for chunk := range slices.Chunk(data, store.ChunkSize) {
		before = binary.LittleEndian.AppendUint32(before, crc32.Checksum(chunk, crc32.MakeTable(crc32.Castagnoli)))
	}
	s.DB().Put("sums", string(d), before)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, disk.Config{Directory: dir})
	storetest.Wants(t, s, data)
	if got, _ := s.DB().Get("sums", string(d)); len(own) != 32 || !bytes.Equal(got, own) {
		t.Errorf("%d bytes of sums are recorded, want the %d that there were", len(got), len(own))
	}
	change(t, s.BlobPath(d), func(b []byte) []byte { b[70_000] ^= 1; return b })
	b, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	if n, err := b.ReadAt(make([]byte, len(data)), 0); err == nil || n > store.ChunkSize {
		t.Errorf("read %d bytes, %v; want an error before the damaged chunk", n, err)
	}
}

// A blob that is not asked for goes; a clock that was wrong at some time neither empties the store nor keeps a blob for ever.
func TestInactivity(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const day = 24 * time.Hour
	now := time.Now()
	start := func(at time.Time) *disk.Store {
		s := open(t, disk.Config{Directory: dir, Inactive: 60 * day, Pinned: func(d oci.Digest) bool {
			return d == oci.FromBytes(storetest.Bytes(9, 100))
		}})
		s.SetNow(func() time.Time { return at })
		return s
	}
	stop := func(s *disk.Store) {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s := start(now)
	for _, i := range []uint64{1, 2, 3, 9} {
		storetest.Put(t, s, storetest.Bytes(i, 100))
	}
	stop(s)

	s = start(time.Unix(0, 0)) // a machine that learns the time later
	storetest.Wants(t, s, storetest.Bytes(1, 100))
	stop(s)

	s = start(now.Add(40 * day))
	s.Sweep(60 * day)
	storetest.Wants(t, s, storetest.Bytes(1, 100))
	stop(s)

	s = start(now.Add(70 * day))
	b, err := s.Open(oci.FromBytes(storetest.Bytes(2, 100)))
	if err != nil {
		t.Fatal(err)
	}
	s.Sweep(60 * day)
	for i, want := range map[uint64]bool{1: true, 2: true, 3: false, 9: true} {
		b, err := s.Open(oci.FromBytes(storetest.Bytes(i, 100)))
		if (err == nil) != want {
			t.Errorf("blob %d: %v, want it there: %v", i, err, want)
		}
		if err == nil {
			b.Close()
		}
	}
	b.Close()
	stop(s)

	s = start(now.Add(-1000 * day)) // uses are now in the future
	s.Sweep(60 * day)
	storetest.Wants(t, s, storetest.Bytes(1, 100))
	stop(s)
	s = start(now.Add(-900 * day))
	s.Sweep(60 * day)
	if _, err := s.Open(oci.FromBytes(storetest.Bytes(2, 100))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a use in the future keeps a blob: %v", err)
	}
}
