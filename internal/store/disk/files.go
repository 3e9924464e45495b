package disk

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"container-registry-proxy/internal/oci"
)

// errForeign says that something other than a regular file has a name of ours. It is neither followed nor removed.
var errForeign = errors.New("not a regular file")

// openFile opens a file of ours. It follows no link and blocks on no pipe.
func openFile(path string, flag int) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o644)
	if errors.Is(err, syscall.ELOOP) {
		err = fmt.Errorf("open %s: %w", path, errForeign)
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: %w", path, errForeign)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// readFile reads a file of ours, up to a limit.
func readFile(path string, limit int64) ([]byte, error) {
	f, _, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// readSmall reads a file of ours that has that size, in three system calls: package os takes three more, for its poller and
// to see what the file is, which shows here when the bytes are hashed.
func readSmall(path string, size int64) ([]byte, error) {
	fd, err := openToRead(path)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer fd.Close()
	b := make([]byte, size+1)                  // a longer file shows
	n, err := io.ReadAtLeast(fd, b, int(size)) // some file systems give less at once than there is
	switch {
	case err != nil:
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	case int64(n) > size:
		return nil, fmt.Errorf("read %s: more than %d bytes", path, size)
	}
	return b[:n], nil
}

// createFile makes an empty file of ours that can be read alone, and returns it open for writing: package os takes a call
// more. A file that is there already is an error matching [fs.ErrExist].
func createFile(path string) (descriptor, error) {
	const flag = syscall.O_WRONLY | syscall.O_CREAT | syscall.O_EXCL | syscall.O_CLOEXEC
	fd, err := untilDone(func() (int, error) { return syscall.Open(path, flag, 0o444) })
	if err != nil {
		return -1, &fs.PathError{Op: "create", Path: path, Err: err}
	}
	return descriptor(fd), nil
}

// descriptor is an open file, for one goroutine.
type descriptor int

func (fd descriptor) Read(p []byte) (int, error) {
	n, err := untilDone(func() (int, error) { return syscall.Read(int(fd), p) })
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func (fd descriptor) Write(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := untilDone(func() (int, error) { return syscall.Write(int(fd), p[n:]) })
		switch {
		case err != nil:
			return n, fmt.Errorf("write: %w", err)
		case m == 0:
			return n, io.ErrShortWrite
		}
		n += m
	}
	return n, nil
}

func (fd descriptor) Close() error {
	if err := syscall.Close(int(fd)); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// openToRead opens a file as openFile does, and spares the file system to write down when it was read, where that is for
// us to say.
func openToRead(path string) (descriptor, error) {
	open := func(flag int) (int, error) {
		return untilDone(func() (int, error) { return syscall.Open(path, flag, 0) })
	}
	const flag = syscall.O_RDONLY | syscall.O_CLOEXEC | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	fd, err := open(flag | noAtime)
	if err == syscall.EPERM { // the file is another user's
		fd, err = open(flag)
	}
	return descriptor(fd), err
}

// untilDone repeats a system call that a signal has interrupted.
func untilDone(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != syscall.EINTR {
			return n, err
		}
	}
}

// statFile is Lstat of a file of ours: an error matching errForeign if it is not a regular one.
func statFile(path string) (fs.FileInfo, error) {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", path, errForeign)
	}
	return info, err
}

// realDirectory returns an error matching errForeign if path is anything but a directory: a link to one is not followed.
func realDirectory(path string) error {
	info, err := os.Lstat(path)
	if err == nil && !info.IsDir() {
		return fmt.Errorf("%s is no directory: %w", path, errForeign)
	}
	return err
}

// shards remembers which directories of blobs have been found to be directories, so that this is looked up once.
type shards [2][256]atomic.Bool

// blobPath is the path of a blob's file, or an error matching errForeign if a directory on the way to it is a link.
func (s *Store) blobPath(d oci.Digest) (string, error) {
	known := s.shards.of(d)
	if !known.Load() {
		for _, dir := range []string{filepath.Dir(s.dir.shard(d)), s.dir.shard(d)} {
			err := realDirectory(dir)
			if errors.Is(err, fs.ErrNotExist) {
				return s.dir.blob(d), nil
			}
			if err != nil {
				return "", err
			}
		}
		known.Store(true)
	}
	return s.dir.blob(d), nil
}

func (s *shards) of(d oci.Digest) *atomic.Bool {
	algorithm := 0
	if d.Algorithm() == "sha512" {
		algorithm = 1
	}
	first, _ := strconv.ParseUint(d.Hex()[:2], 16, 8)
	return &s[algorithm][first]
}

// names are locks by digest. One is held while the file of a blob appears under its name or goes, together with its
// entry, so that the removal of an old one does not hit a new one. Unlike Store.mu they are held across those I/Os.
// They are taken before Store.mu.
type names struct {
	seed  maphash.Seed
	locks [64]sync.Mutex
}

func newNames() names { return names{seed: maphash.MakeSeed()} }

func (n *names) lock(d oci.Digest) (unlock func()) {
	mu := &n.locks[maphash.String(n.seed, string(d))%uint64(len(n.locks))]
	mu.Lock()
	return mu.Unlock
}

// errReleased says that the directory belongs to the next process.
var errReleased = errors.New("the cache directory has been given up")

// change runs what changes the directory, unless it is not ours; Close waits for it. It waits for the index, and may be
// nested.
func (s *Store) change(op func() error) error {
	s.loaded()
	s.mu.Lock()
	if s.away != nil {
		defer s.mu.Unlock()
		return noSpace{s.away}
	}
	s.changes.Add(1)
	s.mu.Unlock()
	defer s.changes.Done()
	return op()
}

// removeBlob deletes the file of a blob that is off the index, unless it has been committed again.
func (s *Store) removeBlob(d oci.Digest) error {
	return s.change(func() error {
		defer s.names.lock(d)()
		s.mu.Lock()
		again := s.index[d] != nil
		s.mu.Unlock()
		if again {
			return nil
		}
		return s.unlinkBlob(d)
	})
}

// unlinkBlob deletes the file of a blob. The caller holds its name.
func (s *Store) unlinkBlob(d oci.Digest) error {
	path, err := s.blobPath(d)
	if err != nil {
		return nil // not ours
	}
	return s.unlink(path)
}

// removeStaged deletes a file of the staging directory.
func (s *Store) removeStaged(name string) error {
	return s.change(func() error { return s.unlink(s.dir.staged(name)) })
}

// unlink deletes a file of ours. One that is not there is no error, nor is one that is not ours.
func (s *Store) unlink(path string) error {
	if err := s.at("remove"); err != nil {
		return err
	}
	_, err := statFile(path)
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errForeign) {
		return nil
	}
	return err
}
