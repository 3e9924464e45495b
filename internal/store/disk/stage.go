package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"container-registry-proxy/internal/durable"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// errStaging refuses a second stage of a digest. It is given as a lack of space, which is no reason to fail a pull.
var errStaging = errors.New("the digest is being staged already")

// stage is a blob being written, to a file in the staging directory.
type stage struct {
	store  *Store
	digest oci.Digest
	size   int64 // -1 where it is not known
	name   string
	file   *os.File
	staged store.Extents // what was there when it was opened
	closed atomic.Bool

	growing sync.Mutex // held while space is asked for, which may take the removal of files

	mu      sync.Mutex // guards the fields that follow; never held together with Store.mu
	have    store.Extents
	synced  store.Extents // of have, what a power cut would leave
	pending int64         // bytes of writes in progress
	broken  error         // why the file cannot be trusted with more
	proven  []uint32      // the sums of the bytes, once there is a proof

	// The account, guarded by Store.mu.
	granted, promised int64
	entry             *entry // once committed
}

var _ store.Stage = (*stage)(nil)

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
	if err = s.announce(st); err == nil && st.file == nil {
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
	var err error
	if l.Size == st.size {
		st.file, _, err = openFile(st.store.dir.staged(l.Name), os.O_RDWR)
	}
	if l.Size != st.size || err != nil {
		st.store.discardLeftover(l)
		return
	}
	st.name, st.staged, st.have, st.synced = l.Name, slices.Clone(l.have), l.have, l.Have
	st.granted = l.bytes // it stays on the account
}

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

// WriteAt refuses what lies past the announced size.
func (st *stage) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || st.size >= 0 && off+int64(len(p)) > st.size {
		return 0, fmt.Errorf("stage %s: write of %d bytes at %d is outside of its %d bytes", st.digest, len(p), off, st.size)
	}
	if err := st.reserve(int64(len(p))); err != nil {
		return 0, fmt.Errorf("stage %s: %w", st.digest, err)
	}
	var n int
	err := st.store.withRoom(grant, func() (err error) {
		if err = st.store.at("write"); err == nil {
			n, err = st.file.WriteAt(p, off)
		}
		return err
	})
	st.mu.Lock()
	st.pending -= int64(len(p))
	st.have.Add(off, off+int64(n))
	if err != nil {
		st.broken = err
	}
	st.mu.Unlock()
	if err != nil {
		return n, fmt.Errorf("stage %s: %w", st.digest, err)
	}
	return n, nil
}

// reserve makes sure that n bytes more are granted. They are pending until they are written.
func (st *stage) reserve(n int64) error {
	st.growing.Lock()
	defer st.growing.Unlock()
	st.mu.Lock()
	want := footprint(st.have) + blocks(st.pending+n)
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
	var last int64 // block that is counted already
	for _, x := range have {
		start := max(x.Start&^(blockSize-1), last)
		last = blocks(x.End)
		n += max(last-start, 0)
	}
	return n
}

// ReadAt reads what has been written, up to the first byte that has not. Once there is a proof it checks what it reads.
func (st *stage) ReadAt(p []byte, off int64) (int, error) {
	st.mu.Lock()
	end, proven := st.have.End(off), st.proven
	st.mu.Unlock()
	if off < 0 || off >= end && len(p) > 0 {
		return 0, io.EOF
	}
	if proven != nil {
		n, err := checked{st.file, end, proven}.readAt(p, off)
		if err != nil && err != io.EOF {
			err = fmt.Errorf("read staged %s: %w", st.digest, err)
		}
		return n, err
	}
	short := int64(len(p)) > end-off
	if short {
		p = p[:end-off]
	}
	n, err := st.file.ReadAt(p, off)
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// Commit makes the blob visible. If it fails, the file is gone and what was written stays readable through st.
func (st *stage) Commit(ctx context.Context, proof store.Proof) error {
	err := context.Cause(ctx)
	if err == nil {
		err = st.prove(proof)
	}
	if err == nil {
		err = st.commit(proof)
	}
	if err != nil {
		return fmt.Errorf("commit %s: %w", st.digest, err)
	}
	return nil
}

// prove takes the proof, which must be for all the bytes there are.
func (st *stage) prove(proof store.Proof) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	have := st.have.End(0)
	switch {
	case st.broken != nil:
		return noSpace{st.broken}
	case proof.Digest() != st.digest:
		return fmt.Errorf("the proof is for %q", proof.Digest())
	case st.proven != nil:
		return errors.New("committed already")
	case have != proof.Size() || st.have.Total() != have:
		return fmt.Errorf("%d bytes are proven, %d staged", proof.Size(), st.have.Total())
	}
	st.proven = append([]uint32{}, proof.Sums()...) // not nil, however empty
	return nil
}

// commit follows the order that a power cut demands. A file that could not be synced is dropped and never synced again:
// the system may have forgotten which of its bytes are not on the disk.
func (st *stage) commit(proof store.Proof) error {
	s := st.store
	err := s.run("fsync", st.file.Sync)
	if err == nil {
		err = s.run("chmod", func() error { return st.file.Chmod(0o444) })
	}
	if err == nil {
		err = s.change(func() error { return st.publish(proof) })
	}
	if err == nil {
		s.recovered()
		return nil
	}
	st.drop(err)
	if errors.Is(err, errReleased) || errors.Is(err, errForeign) {
		return err
	}
	return s.trouble(err)
}

// publish gives the file its name and puts it into the index.
func (st *stage) publish(proof store.Proof) error {
	s := st.store
	path := s.dir.blob(st.digest)
	err := s.withRoom(blockSize, func() error {
		return s.run("mkdir", func() error { return durable.MkdirAll(s.dir.shard(st.digest), 0o755) })
	})
	if err != nil {
		return err
	}
	defer s.names.lock(st.digest)()
	if _, err := statFile(path); errors.Is(err, errForeign) {
		return err
	}
	if err := s.run("rename", func() error { return os.Rename(s.dir.staged(st.name), path) }); err != nil {
		return err
	}
	if err := s.run("syncdir", func() error { return durable.SyncDir(s.dir.shard(st.digest)) }); err != nil {
		return errors.Join(err, s.unlink(path))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delist(st)
	st.entry = s.add(st.digest, proof.Size(), proof.Sums())
	return nil
}

// drop removes the file, which stays readable through st. Nothing more can be written.
func (st *stage) drop(why error) {
	st.mu.Lock()
	if st.broken == nil {
		st.broken = why
	}
	st.mu.Unlock()
	s := st.store
	if err := s.removeStaged(st.name); err != nil && !errors.Is(err, errReleased) {
		s.log.Warn("remove staged file", "digest", st.digest, "err", err)
	}
}

// delist takes st and its record off the store. The caller holds Store.mu.
func (s *Store) delist(st *stage) {
	if s.stages[st.digest] != st {
		return
	}
	delete(s.stages, st.digest)
	s.space.staged -= st.granted
	s.space.promised -= st.promised
	st.granted, st.promised = 0, 0
	s.db.Delete(bucketStaged, string(st.digest))
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
			err = nil // the file went when the directory was given up
		}
	}
	return errors.Join(err, st.close())
}

func (st *stage) close() error {
	if st.entry != nil {
		st.store.closed(st.entry)
	}
	if st.file == nil {
		return nil
	}
	return st.file.Close()
}

// abandon unlinks the file of a stage whose store is closed: the next process must not share it. Those who have it open
// go on writing and reading it.
func (s *Store) abandon(st *stage) error {
	s.mu.Lock()
	s.delist(st)
	s.mu.Unlock()
	if st.name == "" {
		return nil
	}
	return s.unlink(s.dir.staged(st.name))
}

// full reports whether an error says that the disk has no space, or none for this user.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
