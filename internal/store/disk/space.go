package disk

import (
	"errors"
	"fmt"
	"syscall"

	"container-registry-proxy/internal/oci"
)

// space is the account of the directory, in bytes. What is staged is evicted for as it is written, not when it is
// announced: a registry that lies about a size must not empty the cache.
type space struct {
	limit    int64
	blobs    int64 // committed, those included that are removed but still open
	open     int64 // of them, those that are open and so cannot be evicted
	staged   int64 // granted to stages, and held by what they left behind
	promised int64 // announced by stages and not yet granted
	index    int64 // the database
}

func (a space) room() int64 { return a.limit - a.index - a.blobs - a.staged }

// attainable is the room there would be if all was evicted that can be.
func (a space) attainable() int64 { return a.limit - a.index - a.open - a.staged - a.promised }

// blockSize is the unit in which file systems give out space.
const blockSize = 4 << 10

// blocks is the space that a file of n bytes takes.
func blocks(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }

// grant is in how large steps stages are given space: large enough that the free space is not asked for all the time.
const grant = 4 << 20

// errFull says that the store's limit leaves no room.
var errFull = errors.New("no room within the limit")

// announce notes what st is going to need beyond what it has, or says that it cannot have it.
func (s *Store) announce(st *stage) error {
	n := max(blocks(st.size)-st.granted, 0)
	if err := s.roomOnDisk(n); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := s.space.attainable() + s.staleLeftovers(); n > left {
		return noSpace{fmt.Errorf("%w: %d bytes needed, %d could be made free", errFull, n, max(left, 0))}
	}
	st.promised = n
	s.space.promised += n
	return nil
}

// roomOnDisk checks that n bytes would leave the reserved free space alone if all was evicted that can be.
func (s *Store) roomOnDisk(n int64) error {
	free, err := s.free()
	if err != nil {
		return s.trouble(err)
	}
	s.mu.Lock()
	evictable := s.space.blobs - s.space.open
	promised := s.space.promised
	s.mu.Unlock()
	if free+evictable-promised < n+s.cfg.MinFree {
		return s.trouble(fmt.Errorf("disk is full: %d bytes free, %d to be left to others", free, s.cfg.MinFree))
	}
	return nil
}

// grow sees to it that st is granted that many bytes in all, evicting what is in the way.
func (s *Store) grow(st *stage, want int64) error {
	s.mu.Lock()
	n := st.step(want)
	if n <= 0 || s.stages[st.digest] != st { // what the directory has been given up for is on no account
		s.mu.Unlock()
		return nil
	}
	enough := s.evict(n-s.space.room(), reasonLimit)
	if enough {
		s.take(st, n)
	}
	s.mu.Unlock()
	s.unlinkEvicted()
	if !enough {
		return noSpace{errFull}
	}
	err := s.keepFree(n)
	if err != nil {
		s.mu.Lock()
		s.take(st, -n)
		s.mu.Unlock()
	}
	return err
}

// step is how much to grant for a stage that wants so much in all: steps that suit its size, and double where that is
// not known.
func (st *stage) step(want int64) int64 {
	if st.size < 0 {
		if want <= st.granted {
			return 0
		}
		return max(want-st.granted, min(st.granted, grant))
	}
	whole := blocks(st.size)
	want = min(want, whole)
	if want <= st.granted {
		return 0
	}
	return max(want-st.granted, min(whole-st.granted, grant))
}

// take moves n bytes from what is promised to a stage to what it has. The caller holds mu.
func (s *Store) take(st *stage, n int64) {
	if s.stages[st.digest] != st {
		return
	}
	promised := min(n, st.promised)
	st.granted += n
	st.promised -= promised
	s.space.staged += n
	s.space.promised -= promised
}

// keepFree evicts until writing n bytes leaves the reserved free space to others.
func (s *Store) keepFree(n int64) error {
	for {
		free, err := s.free()
		if err != nil {
			return s.trouble(err)
		}
		short := n + s.cfg.MinFree - free
		if short <= 0 {
			return nil
		}
		s.mu.Lock()
		before := s.space.blobs + s.space.staged
		s.evict(short, reasonFreeSpace)
		freed := before - s.space.blobs - s.space.staged
		s.mu.Unlock()
		s.unlinkEvicted()
		if freed <= 0 {
			return s.trouble(fmt.Errorf("disk is full: %d bytes free, %d to be left to others", free, s.cfg.MinFree))
		}
	}
}

// evict takes leftovers and blobs off the account until n bytes are free, and reports whether it could. It takes none
// where all of them would not do. The caller holds mu and calls unlinkEvicted without it.
func (s *Store) evict(n int64, reason string) bool {
	if n > s.staleLeftovers()+s.space.blobs-s.space.open {
		return false
	}
	for n > 0 && len(s.leftovers) > 0 {
		n -= s.evictLeftover().bytes
	}
	for n > 0 {
		e := s.order.victim(s.evictable)
		if e == nil {
			return false
		}
		s.forget(e)
		s.evicted = append(s.evicted, evicted{blob: e.digest})
		s.metrics.evicted(reason, e.size)
		n -= blocks(e.size)
	}
	return true
}

func (s *Store) evictable(e *entry) bool { return e.opens == 0 && !s.cfg.Pinned(e.digest) }

// evicted is what is off the account and still on the disk: a blob, or a staged file.
type evicted struct {
	blob   oci.Digest
	staged string
}

// unlinkEvicted removes the files of what was evicted. Those that resist are found again when the disk has recovered.
func (s *Store) unlinkEvicted() {
	s.mu.Lock()
	files := s.evicted
	s.evicted = nil
	s.mu.Unlock()
	for _, file := range files {
		var err error
		if file.staged != "" {
			err = s.removeStaged(file.staged)
		} else {
			err = s.removeBlob(file.blob)
		}
		if err != nil && !errors.Is(err, errReleased) {
			_ = s.trouble(fmt.Errorf("evict: %w", err))
		}
	}
}

// withRoom runs an operation that needs space, once more with what is evicted for it if there was none. An error is the
// disk's and matches [store.ErrNoSpace].
func (s *Store) withRoom(n int64, op func() error) error {
	err := op()
	if full(err) {
		s.mu.Lock()
		before := s.space.blobs + s.space.staged
		s.evict(min(n, s.staleLeftovers()+s.space.blobs-s.space.open), reasonFreeSpace)
		freed := before - s.space.blobs - s.space.staged
		s.mu.Unlock()
		s.unlinkEvicted()
		if freed > 0 {
			err = op()
		}
	}
	if err != nil {
		return s.trouble(err)
	}
	return nil
}

// free is the space of the file system that this process may use.
func (s *Store) free() (int64, error) {
	if err := s.at("statfs"); err != nil {
		return 0, err
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(string(s.dir), &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}
