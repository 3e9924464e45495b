package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"container-registry-proxy/internal/durable"
	"container-registry-proxy/internal/store"
)

// small is up to what size a blob is written and read in one piece. It has no chunk sums: it is hashed whenever it is
// opened, which for a manifest or a config costs a few microseconds, no more than to look its sum up. So no instant of a
// crash can make it wrong, and it is not synced when it is committed but soon after, together with all that were committed
// meanwhile: to sync each takes fifty times as long as to write it. A power cut before that costs the blob, as a miss.
// See docs/decisions/0006-small-blobs-are-synced-together.md.
const small = store.ChunkSize

// A small blob is staged in memory. It gets its file when it is committed.

// remember writes to memory.
func (st *stage) remember(p []byte, off int64) int {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.pending -= int64(len(p))
	st.have.Add(off, off+int64(len(p)))
	return copy(st.memory[off:], p)
}

// recall reads from memory, up to the first byte that has not been written.
func (st *stage) recall(p []byte, off int64) (int, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	n := 0
	if end := st.have.End(off); off >= 0 && off < end {
		n = copy(p, st.memory[off:end])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// publishSmall writes a small blob to its file and puts it into the index. The file has its name from the first: there
// is no instant at which a wrong one would not be found out, and to rename it costs as much as to write it.
func (st *stage) publishSmall() error {
	s := st.store
	path, err := s.blobPath(st.digest)
	if err != nil {
		return err
	}
	return s.withRoom(small, func() error {
		defer s.names.lock(st.digest)()
		if err := st.writeSmall(path); err != nil {
			return err
		}
		s.unsynced.Store(true)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.delist(st)
		st.entry = s.add(st.digest, st.size, nil)
		return nil
	})
}

// writeSmall makes the file, of which nothing stays if it fails. The caller holds the name.
func (st *stage) writeSmall(path string) error {
	s := st.store
	var f descriptor
	err := s.run("create", func() (err error) {
		f, err = st.createBlob(path)
		return err
	})
	if err != nil {
		return err
	}
	err = s.run("write", func() error {
		_, err := f.Write(st.memory)
		return err
	})
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, s.unlink(path))
	}
	return nil
}

// createBlob makes an empty file, in place of one that the index does not know, and the directory if there is none.
func (st *stage) createBlob(path string) (descriptor, error) {
	s := st.store
	f, err := createFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = s.run("mkdir", func() error { return s.dir.makeShard(st.digest) })
	case errors.Is(err, fs.ErrExist):
		if _, err = statFile(path); err == nil {
			err = s.unlink(path)
		}
	default:
		return f, err
	}
	if err != nil {
		return -1, err
	}
	return createFile(path)
}

// openSmall reads a small blob, whose entry is counted as opened, and hashes it.
func (s *Store) openSmall(e *entry, path string) (store.Blob, error) {
	b, err := readSmall(path, e.size)
	if err == nil {
		verifier := store.NewVerifier(e.digest)
		_, _ = verifier.Write(b)
		_, err = verifier.Proof()
	}
	if err != nil {
		return nil, s.lost(e, err)
	}
	s.closed(e)
	return smallBlob{bytes.NewReader(b)}, nil
}

// smallBlob is a blob in memory.
type smallBlob struct{ *bytes.Reader }

func (b smallBlob) ReadAt(p []byte, off int64) (int, error) {
	if len(p) == 0 && off >= 0 {
		return 0, nil
	}
	return b.Reader.ReadAt(p, off)
}

func (smallBlob) Close() error { return nil }

// syncSmall makes the small blobs durable that have been committed since it was called last.
func (s *Store) syncSmall() {
	if !s.unsynced.Swap(false) {
		return
	}
	err := s.run("syncall", func() error { return durable.SyncAll(string(s.dir)) })
	if err != nil {
		_ = s.trouble(fmt.Errorf("sync small blobs: %w", err)) // those that it concerns are found out when they are opened
	}
}
