package disk

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"container-registry-proxy/internal/durable"
	"container-registry-proxy/internal/store"
)

// trouble notes that the disk does not do what it should, and returns an error that matches [store.ErrNoSpace]: the
// caller goes on without the disk. Run finds out when it works again.
func (s *Store) trouble(err error) error { return s.degrade(err, blockSize) }

// diskFull is trouble whose end is when n bytes can be had.
func (s *Store) diskFull(n, free int64) error {
	return s.degrade(fmt.Errorf("disk is full: %d bytes needed, %d could be had, %d are to be left to others", n, max(free, 0), s.cfg.MinFree), n)
}

func (s *Store) degrade(err error, needed int64) error {
	s.mu.Lock()
	first := s.degraded == "" && !errors.Is(s.away, errReleased)
	s.degraded = err.Error()
	s.needed = needed
	s.mu.Unlock()
	if first {
		s.log.Error("store does not keep what it should: pulls pass through", "err", err)
	}
	return noSpace{err}
}

// recovered notes that the disk does what it should.
func (s *Store) recovered() {
	s.mu.Lock()
	before := s.degraded
	s.degraded = ""
	s.mu.Unlock()
	if before != "" {
		s.log.Info("store keeps blobs again", "was", before)
	}
}

// noSpace is why there is no space.
type noSpace struct{ err error }

func (e noSpace) Error() string        { return e.err.Error() }
func (e noSpace) Is(target error) bool { return target == store.ErrNoSpace }
func (e noSpace) Unwrap() error        { return e.err }

// errAbsent says that the directory could not be taken yet.
var errAbsent = errors.New("the cache directory cannot be used yet")

// without starts a store whose directory cannot be taken because the disk is in trouble, as one that is full may be when
// it comes from another program. What belongs in its database is kept in memory. Another error it returns.
func (s *Store) without(err error) error {
	if !ofDisk(err) {
		return err
	}
	db, merr := memoryDB(s.log)
	if merr != nil {
		return errors.Join(err, merr)
	}
	s.db, s.away = db, errAbsent
	s.loading.Do(func() {}) // there is no index
	_ = s.trouble(err)
	return nil
}

// memoryDB is a database in a file that has no name, in memory if the system lets us.
func memoryDB(log *slog.Logger) (db *durable.DB, err error) {
	for _, dir := range []string{"/dev/shm", os.TempDir()} {
		var own string
		if own, err = os.MkdirTemp(dir, "registry-proxy-*"); err != nil {
			continue
		}
		db, err = durable.OpenDB(filepath.Join(own, "metadata.db"), log)
		_ = os.RemoveAll(own)
		if err == nil {
			return db, nil
		}
	}
	return nil, err
}

// appear takes the directory of a store that started without one.
func (s *Store) appear() error {
	s.mu.Lock()
	away := s.away
	s.mu.Unlock()
	if !errors.Is(away, errAbsent) {
		return away
	}
	lock, err := s.take(lockPoll)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !errors.Is(s.away, errAbsent) { // closed meanwhile
		return errors.Join(s.away, lock.Close())
	}
	s.lock, s.away = lock, nil
	return nil
}

// ofDisk reports whether an error is the disk's, and may pass.
func ofDisk(err error) bool {
	return full(err) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EIO)
}

// full reports whether an error says that the disk has no space, or none for this user.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
