package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// errStaging refuses a second stage of a digest. It is given as a lack of space, which is no reason to fail a pull.
var errStaging = errors.New("the digest is being staged already")

// stage is a blob being written, to a file in the staging directory or, if it is small, to memory.
type stage struct {
	store   *Store
	digest  oci.Digest
	size    int64         // -1 where it is not known
	memory  []byte        // the bytes of a small blob, which has no file
	staged  store.Extents // what was there when it was opened
	written atomic.Int64  // the space that the file takes
	closed  atomic.Bool

	growing sync.Mutex // held while space is asked for, which may take the removal of files

	files sync.RWMutex // guards the fields that follow; read-locked during their I/O; taken before mu
	name  string
	file  *os.File
	base  handedOver

	mu      sync.Mutex // guards the fields that follow; never held together with Store.mu
	have    store.Extents
	synced  store.Extents // of have, what a power cut would leave
	pending int64         // bytes of writes in progress
	broken  error         // why the file cannot be trusted with more
	proven  []uint64      // the sums of the bytes, once there is a proof
	source  string        // where the bytes come from, as its user says

	// The account, guarded by Store.mu.
	granted, promised int64
	entry             *entry // once committed
}

// handedOver is the file of a stage whose directory has been given up, and what is read from it still.
type handedOver struct {
	file *os.File
	have store.Extents
}

var (
	_ store.Stage   = (*stage)(nil)
	_ store.Sourced = (*stage)(nil)
)

// Stage takes up what is left of the digest, or begins a new file.
func (s *Store) Stage(d oci.Digest, size int64) (store.Stage, error) {
	st := &stage{store: s, digest: d, size: size}
	err := s.change(func() error { return s.begin(st) })
	if err != nil {
		return nil, fmt.Errorf("stage %s: %w", d, err)
	}
	return st, nil
}

func (s *Store) begin(st *stage) error {
	left, err := s.enlist(st)
	if err != nil {
		return err
	}
	if left != nil {
		st.resume(left)
	}
	if st.size >= 0 && st.size <= small {
		st.memory = make([]byte, st.size)
		err = s.grantSmall(st)
	} else if err = s.announce(st); err == nil && st.file == nil {
		err = st.create()
	}
	if err != nil {
		_ = st.Close()
	}
	return err
}

// enlist makes st the one stage of its digest, and takes what is left of the digest off the list.
func (s *Store) enlist(st *stage) (*leftover, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stages[st.digest] != nil {
		return nil, noSpace{errStaging}
	}
	s.stages[st.digest] = st
	return s.takeLeftover(st.digest), nil
}

// resume continues a leftover of the same size; another is dropped.
func (st *stage) resume(l *leftover) {
	if l.Size == st.size && l.Size > small {
		if file, _, err := openFile(st.store.dir.staged(l.Name), os.O_RDWR); err == nil {
			st.file, st.name = file, l.Name
			st.staged, st.have, st.synced = slices.Clone(l.have), slices.Clone(l.have), slices.Clone(l.Have)
			st.granted = l.bytes // it is on the account
			st.source = l.Source
			st.written.Store(l.bytes)
			return
		}
	}
	st.store.discardLeftover(l)
}

// create makes the file of a stage, in staging.
func (st *stage) create() error {
	s := st.store
	return s.withRoom(blockSize, func() error {
		return s.run("create", func() error {
			f, err := os.CreateTemp(s.dir.staging(), stagedPrefix(st.digest)+"*")
			if errors.Is(err, fs.ErrNotExist) { // somebody has emptied the directory under us
				if err = s.dir.create(); err == nil {
					f, err = os.CreateTemp(s.dir.staging(), stagedPrefix(st.digest)+"*")
				}
			}
			if err != nil {
				return err
			}
			st.file, st.name = f, filepath.Base(f.Name())
			return nil
		})
	})
}

func (st *stage) Staged() []store.Extent { return slices.Clone(st.staged) }

func (st *stage) Source() string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.source
}

func (st *stage) SetSource(source string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.source = source
}

// WriteAt refuses what lies past the announced size.
func (st *stage) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || st.size >= 0 && off+int64(len(p)) > st.size {
		return 0, fmt.Errorf("stage %s: %d bytes at %d are outside of its %d bytes", st.digest, len(p), off, st.size)
	}
	if err := st.reserve(int64(len(p))); err != nil {
		return 0, fmt.Errorf("stage %s: %w", st.digest, err)
	}
	n, err := st.write(p, off)
	if err != nil {
		return n, fmt.Errorf("stage %s: %w", st.digest, err)
	}
	return n, nil
}

func (st *stage) write(p []byte, off int64) (n int, err error) {
	if st.memory != nil {
		return st.remember(p, off), nil
	}
	st.files.RLock()
	defer st.files.RUnlock()
	err = st.store.withRoom(grant, func() error {
		err := st.store.at("write")
		if err == nil {
			n, err = st.file.WriteAt(p, off)
		}
		return err
	})
	st.mu.Lock()
	defer st.mu.Unlock()
	st.pending -= int64(len(p))
	st.have.Add(off, off+int64(n))
	st.written.Store(footprint(st.have))
	if err != nil && st.broken == nil {
		st.broken = err
	}
	return n, err
}

// reserve makes sure that n bytes more are granted. They are pending until they are written.
func (st *stage) reserve(n int64) error {
	st.growing.Lock()
	defer st.growing.Unlock()
	st.mu.Lock()
	want := st.written.Load() + blocks(st.pending+n)
	err := st.broken
	if err == nil {
		st.pending += n
	}
	st.mu.Unlock()
	if err != nil {
		return noSpace{err}
	}
	if err = st.store.grow(st, want); err != nil {
		st.mu.Lock()
		st.pending -= n
		st.mu.Unlock()
	}
	return err
}

// footprint is the space that a file with these bytes takes.
func footprint(have store.Extents) (n int64) {
	var counted int64 // up to where
	for _, x := range have {
		start := max(x.Start&^(blockSize-1), counted)
		counted = blocks(x.End)
		n += max(counted-start, 0)
	}
	return n
}

// ReadAt reads what has been written, up to the first byte that has not. Once there is a proof it checks what it reads.
func (st *stage) ReadAt(p []byte, off int64) (n int, err error) {
	if st.memory != nil {
		return st.recall(p, off)
	}
	st.files.RLock()
	defer st.files.RUnlock()
	st.mu.Lock()
	end, proven := st.have.End(off), st.proven
	st.mu.Unlock()
	if off < 0 || off >= end && len(p) > 0 {
		return 0, io.EOF
	}
	if proven != nil {
		n, err = checked{st.file, end, proven}.readAt(p, off)
	} else {
		want := p[:min(int64(len(p)), end-off)]
		if n, err = st.read(want, off); err == nil && len(want) < len(p) {
			err = io.EOF
		}
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read staged %s: %w", st.digest, err)
	}
	return n, err
}

// read fills p, part by part where some are in the file that was handed over. The caller holds files.
func (st *stage) read(p []byte, off int64) (n int, err error) {
	for n < len(p) && err == nil {
		at := off + int64(n)
		file, part := st.file, p[n:]
		if end := st.base.have.End(at); end > at {
			file, part = st.base.file, part[:min(int64(len(part)), end-at)]
		} else if next := st.base.have.Next(at); next >= 0 {
			part = part[:min(int64(len(part)), next-at)]
		}
		var m int
		m, err = file.ReadAt(part, at)
		n += m
	}
	return n, err
}

// drop removes the file, which stays readable through st. Nothing more can be written.
func (st *stage) drop(why error) {
	st.mu.Lock()
	if st.broken == nil {
		st.broken = why
	}
	st.mu.Unlock()
	s := st.store
	if st.name == "" {
		return
	}
	if err := s.removeStaged(st.name); err != nil && !errors.Is(err, errReleased) {
		s.log.Warn("remove staged file", "digest", st.digest, "err", err)
	}
}

// Close leaves what was written for the next stage of the digest, if that is of use.
func (st *stage) Close() error {
	if st.closed.Swap(true) {
		return nil
	}
	if st.leave() {
		return st.close()
	}
	return st.discard()
}

// Discard removes what was written.
func (st *stage) Discard() error {
	if st.closed.Swap(true) {
		return nil
	}
	return st.discard()
}

func (st *stage) discard() error {
	s := st.store
	s.mu.Lock()
	committed := st.entry != nil
	s.delist(st)
	s.mu.Unlock()
	var err error
	if st.name != "" && !committed {
		if err = s.removeStaged(st.name); errors.Is(err, errReleased) {
			err = nil // it is the next process's
		}
	}
	return errors.Join(err, st.close())
}

// close closes the files, and ends the use of the blob if there is one.
func (st *stage) close() error {
	s := st.store
	s.mu.Lock()
	committed := st.entry
	s.mu.Unlock()
	if committed != nil {
		s.closed(committed)
	}
	st.files.Lock()
	defer st.files.Unlock()
	var err error
	for _, f := range []*os.File{st.file, st.base.file} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// delist takes st and its record off the store. The caller holds Store.mu.
func (s *Store) delist(st *stage) {
	if s.stages[st.digest] != st {
		return
	}
	s.settle(st)
	if st.memory == nil {
		s.db.Delete(bucketStaged, string(st.digest))
	}
}

// settle takes st, but not its record, off the store. The caller holds Store.mu.
func (s *Store) settle(st *stage) {
	delete(s.stages, st.digest)
	s.space.staged -= st.granted
	s.space.promised -= st.promised
	st.granted, st.promised = 0, 0
}
