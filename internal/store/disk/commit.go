package disk

import (
	"context"
	"errors"
	"fmt"
	"os"

	"container-registry-proxy/internal/durable"
	"container-registry-proxy/internal/store"
)

// Commit makes the blob visible. If it fails for the disk's sake, the file is gone; what was written stays readable
// through st.
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
	st.files.RLock() // the file is handed over before this, or not at all
	defer st.files.RUnlock()
	if st.store.givenUp() {
		return noSpace{errReleased}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	have := st.have.End(0)
	switch {
	case st.broken != nil:
		return noSpace{st.broken}
	case proof.Digest() != st.digest:
		return fmt.Errorf("the proof is for %q", proof.Digest())
	case st.proven != nil:
		return errors.New("there is a proof already")
	case have != proof.Size() || st.have.Total() != have:
		return fmt.Errorf("%d bytes are proven, %d staged", proof.Size(), st.have.Total())
	}
	st.proven = append([]uint64{}, proof.Sums()...) // not nil, however empty
	return nil
}

// commit follows the order that a power cut demands, where it is more than one piece that could be lost (see small). A
// file that could not be synced is dropped and never synced again: the system may have forgotten which of its bytes are
// not on the disk.
func (st *stage) commit(proof store.Proof) error {
	s := st.store
	var err error
	if st.memory != nil {
		err = s.change(st.publishSmall)
	} else if err = st.seal(); err == nil {
		err = s.change(func() error { return st.publish(proof) })
	}
	switch {
	case err == nil || errors.Is(err, errReleased):
		return err
	case errors.Is(err, errForeign):
		st.drop(err)
		return err
	}
	st.drop(err)
	return s.trouble(err)
}

// seal has the bytes of the file be on the disk for good.
func (st *stage) seal() error {
	if err := st.store.run("fsync", st.file.Sync); err != nil {
		return err
	}
	return st.store.run("chmod", func() error { return st.file.Chmod(0o444) })
}

// publish gives the file its name and puts it into the index.
func (st *stage) publish(proof store.Proof) error {
	s := st.store
	path, err := s.blobPath(st.digest)
	if err != nil {
		return err
	}
	shard := s.dir.shard(st.digest)
	err = s.withRoom(blockSize, func() error {
		return s.run("mkdir", func() error { return s.dir.makeShard(st.digest) })
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
	if err := s.run("syncdir", func() error { return durable.SyncDir(shard) }); err != nil {
		return errors.Join(err, s.unlink(path))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delist(st)
	st.entry = s.add(st.digest, proof.Size(), proof.Sums())
	return nil
}
