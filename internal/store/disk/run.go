package disk

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"
)

const (
	// upkeep is how often Run looks after the store: what a crash loses of the last uses and of what is staged.
	upkeep = 5 * time.Second
	// touchedAtOnce is how many last uses are written then. A record costs the database a page: those of all that a busy
	// proxy gives out would keep a core from it for a while.
	touchedAtOnce = 1000
	// surveyAfter is how long those who have waited for a start are given before the directory is walked.
	surveyAfter = time.Second
	// sweepsPerLife is how often, in the time that a blob may be inactive, we look for those that are, and sweepAtMost how
	// long a process that is started anew every day takes to do so.
	sweepsPerLife = 20
	sweepAtMost   = time.Hour
)

// Run looks after the store until ctx ends: it writes last uses and what is staged behind, evicts what nobody asks for, and
// finds out when a disk that failed works again. At first, off the way of requests, it reads the index and walks the
// directory for files that it does not know.
func (s *Store) Run(ctx context.Context) error {
	var surveying sync.WaitGroup
	defer surveying.Wait()
	surveying.Go(func() {
		s.loaded()
		select {
		case <-time.After(surveyAfter):
			s.survey(ctx)
		case <-ctx.Done():
		}
	})
	ticker := time.NewTicker(upkeep)
	defer ticker.Stop()
	for swept := s.now(); ; {
		select {
		case <-ticker.C:
			s.upkeep()
			if life := s.cfg.Inactive; life > 0 && s.now().Sub(swept) >= min(life/sweepsPerLife, sweepAtMost) {
				swept = s.now()
				s.sweep(swept.Add(-life))
			}
			if s.retry() && !s.adopting.Swap(true) {
				surveying.Wait()
				surveying.Go(func() { s.survey(ctx) }) // some removals may have failed meanwhile
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// upkeep writes behind, and brings the account in line with the database's size.
func (s *Store) upkeep() {
	s.loaded() // or what was used just now would be evicted, as nothing else is known
	s.saveTouched(touchedAtOnce)
	s.syncSmall()
	s.checkpoint()
	s.syncLeftovers()
	size := s.db.Size()
	s.mu.Lock()
	s.space.index = size
	s.boundLeftovers()
	if over := -s.space.room(); over > 0 {
		s.evict(min(over, s.evictableBytes()), reasonLimit)
	}
	s.mu.Unlock()
	s.unlinkEvicted()
	_ = s.keepFree() // what others have taken of the reserved free space; trouble is noted
}

// sweep evicts the blobs that nobody has opened since the time given.
func (s *Store) sweep(since time.Time) {
	s.loaded()
	s.mu.Lock()
	for _, e := range s.inactive(since) {
		s.evictBlob(e, reasonInactive)
	}
	s.mu.Unlock()
	s.unlinkEvicted()
}

// retry tries a disk that has failed, and reports whether it works again.
func (s *Store) retry() bool {
	s.mu.Lock()
	degraded, needed := s.degraded != "", s.needed
	s.mu.Unlock()
	if !degraded || s.appear() != nil || s.change(func() error { return s.probe(needed) }) != nil {
		return false
	}
	s.recovered()
	return true
}

// probe does what staging does, with one block, where there is room for as much as is needed.
func (s *Store) probe(needed int64) error {
	if err := s.roomOnDisk(needed); err != nil {
		return err
	}
	if err := s.at("probe"); err != nil {
		return err
	}
	path := s.dir.staged(probeName)
	defer os.Remove(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, blockSize))
	return errors.Join(err, f.Sync(), f.Close())
}
