package disk

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"container-registry-proxy/internal/oci"
)

// space is the account of the directory, in bytes. What is staged is evicted for as it is written, not when it is
// announced, unless it is small: a registry that lies about a size must not empty the cache.
type space struct {
	limit    int64
	blobs    int64 // committed, those included that are removed but still open
	open     int64 // of them, those that are open and so cannot be evicted
	staged   int64 // granted to stages, and held by what they left behind
	promised int64 // announced by stages and not yet granted
	index    int64 // the database

	// What was evicted of late without the file system having shown it as free; some do so seconds later.
	lagging  int64
	lagUntil time.Time
}

func (a space) room() int64 { return a.limit - a.index - a.blobs - a.staged }

// attainable is the room there would be if all was evicted that can be.
func (a space) attainable() int64 { return a.limit - a.index - a.open - a.staged - a.promised }

const (
	// blockSize is the unit in which file systems give out space.
	blockSize = 4 << 10
	// grant is in how large steps stages are given space: large enough that the free space is not asked for all the time.
	grant = 4 << 20
	// lag is how long we wait for the file system to show what was evicted, before we evict more.
	lag = 3 * time.Second
)

// blocks is the space that a file of n bytes takes.
func blocks(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }

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
	if err := s.attain(n); err != nil {
		return err
	}
	st.promised = n
	s.space.promised += n
	return nil
}

// attain says whether n bytes could be had within the limit. The caller holds mu.
func (s *Store) attain(n int64) error {
	if left := s.space.attainable() + s.staleLeftovers(); n > left {
		return noSpace{fmt.Errorf("%w: %d bytes needed, %d could be made free", errFull, n, max(left, 0))}
	}
	return nil
}

// grantSmall grants a small stage at once all that it needs, or says that it cannot have it.
func (s *Store) grantSmall(st *stage) error {
	n := blocks(st.size)
	s.mu.Lock()
	err := s.attain(n)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.grow(st, n)
}

// roomOnDisk checks that n bytes would leave the reserved free space alone if all was evicted that can be.
func (s *Store) roomOnDisk(n int64) error {
	free, err := s.free()
	if err != nil {
		return s.trouble(err)
	}
	s.mu.Lock()
	free += s.evictableBytes() - s.space.promised - s.unwritten()
	s.mu.Unlock()
	if free < n+s.cfg.MinFree {
		return s.diskFull(n, free)
	}
	return nil
}

// grow sees to it that st is granted that many bytes in all, evicting what is in the way.
func (s *Store) grow(st *stage, want int64) error {
	s.mu.Lock()
	n := st.step(want)
	if n <= 0 || s.stages[st.digest] != st { // a stage without a directory is on no account
		s.mu.Unlock()
		return nil
	}
	if !s.evict(n-s.space.room(), reasonLimit) {
		s.mu.Unlock()
		s.unlinkEvicted()
		return noSpace{errFull}
	}
	kept := min(n, st.promised)
	s.grant(st, n, kept)
	s.mu.Unlock()
	s.unlinkEvicted()
	err := s.keepFree()
	if err != nil {
		s.mu.Lock()
		s.grant(st, -n, -kept)
		s.mu.Unlock()
	}
	return err
}

// step is how much to grant for a stage that wants so much in all: steps that suit its size, and double where that is
// not known.
func (st *stage) step(want int64) int64 {
	whole := blocks(st.size)
	if st.size >= 0 {
		want = min(want, whole)
	}
	switch {
	case want <= st.granted:
		return 0
	case st.size < 0:
		return max(want-st.granted, min(st.granted, grant))
	}
	return max(want-st.granted, min(whole-st.granted, grant))
}

// grant gives st n bytes, of which it was promised some. The caller holds mu.
func (s *Store) grant(st *stage, n, promised int64) {
	if s.stages[st.digest] != st {
		return
	}
	st.granted += n
	st.promised -= promised
	s.space.staged += n
	s.space.promised -= promised
}

// unwritten is what stages have been granted and have not written yet. The caller holds mu.
func (s *Store) unwritten() (n int64) {
	for _, st := range s.stages {
		n += max(st.granted-st.written.Load(), 0)
	}
	return n
}

// keepFree evicts until all that is granted can be written and leaves the reserved free space to others. Where all of the
// cache would not do, none of it goes: a reserve that others have taken is no reason to start with an empty cache.
func (s *Store) keepFree() error {
	free, err := s.free()
	if err != nil {
		return s.trouble(err)
	}
	s.mu.Lock()
	if s.now().After(s.space.lagUntil) {
		s.space.lagging = 0
	}
	short := s.unwritten() + s.cfg.MinFree - free - s.space.lagging
	enough := s.evict(short, reasonFreeSpace)
	freed := s.evictedBytes()
	s.mu.Unlock()
	if short <= 0 {
		return nil
	}
	s.unlinkEvicted()
	if !enough {
		return s.diskFull(short, free)
	}
	s.noteLag(free, freed)
	return nil
}

// noteLag notes how much of what was freed the file system does not show.
func (s *Store) noteLag(before, freed int64) {
	after, err := s.free()
	if err != nil {
		return // the next write says it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if hidden := freed - max(after-before, 0); hidden > 0 {
		s.space.lagging += hidden
		s.space.lagUntil = s.now().Add(lag)
	}
}

// withRoom runs an operation that needs space, once more with what is evicted for it if there was none. An error is the
// disk's and matches [store.ErrNoSpace], unless it matches errForeign.
func (s *Store) withRoom(n int64, op func() error) error {
	err := op()
	if full(err) {
		s.mu.Lock()
		s.evict(min(n, s.evictableBytes()), reasonFreeSpace)
		freed := s.evictedBytes()
		s.mu.Unlock()
		s.unlinkEvicted()
		if freed > 0 {
			err = op()
		}
	}
	if err != nil && !errors.Is(err, errForeign) {
		return s.trouble(err)
	}
	return err
}

// evict takes leftovers and blobs off the account until n bytes are free, and reports whether it could. It takes none
// where all of them would not do, unless it is for pinned ones that they do not. The caller holds mu and calls
// unlinkEvicted without it.
func (s *Store) evict(n int64, reason string) bool {
	if n > s.evictableBytes() {
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
		s.evictBlob(e, reason)
		n -= blocks(e.size)
	}
	return true
}

// evictBlob takes a blob off the index. The caller holds mu and calls unlinkEvicted without it.
func (s *Store) evictBlob(e *entry, reason string) {
	s.forget(e)
	s.evicted = append(s.evicted, evicted{blob: e.digest, bytes: blocks(e.size)})
	s.metrics.evicted(reason, e.size)
}

func (s *Store) evictable(e *entry) bool { return e.opens == 0 && !s.cfg.Pinned(e.digest) }

// evictableBytes is what evict could free if nothing was pinned. The caller holds mu.
func (s *Store) evictableBytes() int64 { return s.space.blobs - s.space.open + s.staleLeftovers() }

// evicted is what is off the account and still on the disk: a blob, or a staged file.
type evicted struct {
	blob   oci.Digest
	staged string
	bytes  int64
}

// evictedBytes is what unlinkEvicted is going to free. The caller holds mu.
func (s *Store) evictedBytes() (n int64) {
	for _, file := range s.evicted {
		n += file.bytes
	}
	return n
}

// unlinkEvicted removes the files of what was evicted. Those that resist are found again once the disk has recovered.
func (s *Store) unlinkEvicted() {
	s.unlinking.Lock() // who evicted waits for the removal, whoever does it
	defer s.unlinking.Unlock()
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

// free is the space of the file system that this process may use.
func (s *Store) free() (int64, error) {
	if err := s.at("statfs"); err != nil {
		return 0, err
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(string(s.dir), &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", s.dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
