package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"container-registry-proxy/internal/store"
)

// givenUp reports whether the directory is the next process's.
func (s *Store) givenUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Is(s.away, errReleased)
}

// handOverSync is how much, over all staged files, is synced for the next process's sake: more would keep it waiting for
// the directory.
const handOverSync = 256 << 20

// handOver leaves what is synced of a staged file to the next process, after a last sync if no more than that many bytes
// wait for it, and returns how many are left of those. The two must not write to one file, so st goes on
// in one without a name: there it has what the next process may write again, and there it writes. A file of which nothing
// is synced, or which is being committed, is removed.
func (s *Store) handOver(st *stage, most int64) (left int64, err error) {
	st.files.Lock()
	defer st.files.Unlock()
	st.mu.Lock()
	base, have, source := slices.Clone(st.synced), slices.Clone(st.have), st.source
	keep := st.size >= 0 && st.memory == nil && st.broken == nil && st.proven == nil
	st.mu.Unlock()
	if due := have.Total() - base.Total(); keep && due > 0 && due <= most && s.run("fsync", st.file.Sync) == nil {
		base, most = have, most-due
	}
	keep = keep && len(base) > 0
	if keep {
		if err := st.goOn(base, have); err != nil {
			s.log.Warn("what is staged is not left to the next process", "digest", st.digest, "err", err)
			keep = false
		}
	}
	s.mu.Lock()
	ended := s.stages[st.digest] != st
	s.delist(st)
	if keep && !ended {
		s.record(st.digest, stagedRecord{st.name, st.size, base, s.now().Unix(), source})
	}
	s.mu.Unlock()
	if keep || ended || st.name == "" {
		return most, nil
	}
	return most, s.unlink(s.dir.staged(st.name))
}

// goOn has st write to a file without a name from now on, and read there what is not in base. The caller holds files.
func (st *stage) goOn(base, have store.Extents) error {
	f, err := os.CreateTemp(st.store.dir.staging(), stagedPrefix(st.digest)+"*")
	if err != nil {
		return err
	}
	if err = os.Remove(f.Name()); err == nil {
		err = copyExtents(f, st.file, have.Without(base))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	st.base, st.file = handedOver{st.file, base}, f
	return nil
}

func copyExtents(to, from *os.File, what store.Extents) error {
	for _, x := range what {
		_, err := io.Copy(io.NewOffsetWriter(to, x.Start), io.NewSectionReader(from, x.Start, x.End-x.Start))
		if err != nil {
			return fmt.Errorf("copy what is not synced: %w", err)
		}
	}
	return nil
}
