package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// Open returns a committed blob.
func (s *Store) Open(d oci.Digest) (store.Blob, error) {
	e := s.lookup(d)
	if e == nil && s.adopting.Load() && s.adopt(d) {
		e = s.lookup(d)
	}
	if e == nil {
		return nil, fmt.Errorf("open %s: %w", d, fs.ErrNotExist)
	}
	b, err := s.openEntry(e)
	if err != nil {
		s.closed(e)
		return nil, fmt.Errorf("open %s: %w", d, err)
	}
	return b, nil
}

// openEntry opens the file of an entry that is counted as opened. A file that is not what the index says is no blob.
func (s *Store) openEntry(e *entry) (store.Blob, error) {
	path, err := s.blobPath(e.digest)
	if err != nil {
		return nil, s.lost(e, err)
	}
	if e.size <= small {
		return s.openSmall(e, path)
	}
	f, info, err := openFile(path, os.O_RDONLY)
	if err == nil && info.Size() != e.size {
		_ = f.Close()
		err = fmt.Errorf("%d bytes long, want %d", info.Size(), e.size)
	}
	if err != nil {
		return nil, s.lost(e, err)
	}
	sums, ok := s.knownSums(e.digest, e.size)
	if !ok {
		if sums, err = s.rehash(e, f); err != nil {
			_ = f.Close()
			return nil, err
		}
	}
	return &blob{store: s, entry: e, file: f, sums: sums}, nil
}

// exhausted reports whether an error is this process's want of files or memory, and says nothing of the blob.
func exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// rehash makes the sums of a blob whose record was lost. Those who ask at the same time wait for one hashing.
func (s *Store) rehash(e *entry, f *os.File) ([]uint64, error) {
	sums, err, _ := s.hashing.Do(string(e.digest), func() (any, error) {
		proof, err := hashFile(e.digest, f)
		if err != nil {
			return nil, s.lost(e, err)
		}
		s.sums.put(e.digest, proof.Sums())
		s.db.Put(bucketSums, string(e.digest), encodeSums(proof.Sums()))
		return proof.Sums(), nil
	})
	if err != nil {
		return nil, err
	}
	return sums.([]uint64), nil
}

// hashFile reads a whole file and returns the proof that it has the bytes of d.
func hashFile(d oci.Digest, f io.Reader) (store.Proof, error) {
	verifier := store.NewVerifier(d)
	if _, err := io.CopyBuffer(verifier, f, make([]byte, 256<<10)); err != nil {
		return store.Proof{}, err
	}
	return verifier.Proof()
}

// lost takes a blob that turns out not to be on the disk off the index, and returns an error that says why and matches
// [fs.ErrNotExist]. Where the error is not the blob's, it is returned as it is.
func (s *Store) lost(e *entry, why error) error {
	if exhausted(why) {
		return why
	}
	if errors.Is(why, fs.ErrNotExist) {
		s.log.Info("blob is gone", "digest", e.digest)
		s.drop(e)
		return why
	}
	s.log.Warn("blob is damaged: dropped", "digest", e.digest, "err", why)
	s.metrics.damaged.Inc()
	s.drop(e)
	return fmt.Errorf("%w: %w", why, fs.ErrNotExist)
}

// drop removes an entry and its file, unless another commit has replaced it.
func (s *Store) drop(e *entry) {
	s.loaded() // or it would come back with the index
	s.mu.Lock()
	current := s.index[e.digest] == e
	if current {
		s.forget(e)
	}
	s.mu.Unlock()
	if !current {
		return
	}
	if err := s.removeBlob(e.digest); err != nil && !errors.Is(err, errReleased) {
		s.log.Warn("remove blob", "digest", e.digest, "err", err)
	}
}

// blob is an open file whose bytes are checked as they leave.
type blob struct {
	store  *Store
	entry  *entry
	file   *os.File
	sums   []uint64
	closed atomic.Bool
}

func (b *blob) Size() int64 { return b.entry.size }

func (b *blob) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s: negative offset %d", b.entry.digest, off)
	}
	n, err := checked{b.file, b.entry.size, b.sums}.readAt(p, off)
	if err == nil || err == io.EOF || errors.Is(err, os.ErrClosed) {
		return n, err
	}
	return n, fmt.Errorf("read %s: %w: %w", b.entry.digest, store.ErrDamaged, b.store.lost(b.entry, err))
}

// Close ends the use of the blob. It may be called again.
func (b *blob) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	b.store.closed(b.entry)
	return b.file.Close()
}
