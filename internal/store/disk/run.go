package disk

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	// upkeep is how often Run looks after the store: what a crash loses of the last uses and of what is staged.
	upkeep = 5 * time.Second
	// sweepsPerLife is how often in the time that a blob may be inactive we look for those that are.
	sweepsPerLife = 20
)

// Run looks after the store until ctx ends: it writes last uses and what is staged behind, evicts what nobody asks for, and
// finds out when a disk that failed works again. At first, off the way of requests, it walks the directory for files
// that the index does not know.
func (s *Store) Run(ctx context.Context) error {
	var surveying sync.WaitGroup
	defer surveying.Wait()
	surveying.Go(func() { s.survey(ctx) })
	ticker := time.NewTicker(upkeep)
	defer ticker.Stop()
	for swept := s.now(); ; {
		select {
		case <-ticker.C:
			s.upkeep()
			if life := s.cfg.Inactive; life > 0 && s.now().Sub(swept) >= life/sweepsPerLife {
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
	s.saveTouched()
	s.checkpoint()
	s.syncLeftovers()
	size := s.db.Size()
	s.mu.Lock()
	s.space.index = size
	s.boundLeftovers()
	if over := -s.space.room(); over > 0 {
		s.evict(min(over, s.staleLeftovers()+s.space.blobs-s.space.open), reasonLimit)
	}
	s.mu.Unlock()
	s.unlinkEvicted()
}

// sweep evicts the blobs that nobody has opened since the time given.
func (s *Store) sweep(since time.Time) {
	s.mu.Lock()
	for _, e := range s.inactive(since) {
		s.forget(e)
		s.evicted = append(s.evicted, evicted{blob: e.digest})
		s.metrics.evicted(reasonInactive, e.size)
	}
	s.mu.Unlock()
	s.unlinkEvicted()
}

// retry tries a disk that has failed, and reports whether it works again.
func (s *Store) retry() bool {
	s.mu.Lock()
	degraded := s.degraded != ""
	s.mu.Unlock()
	if !degraded || s.change(s.probe) != nil {
		return false
	}
	s.recovered()
	return true
}

// probe does what a commit does, with one block.
func (s *Store) probe() error {
	if err := s.roomOnDisk(blockSize); err != nil {
		return err
	}
	if err := s.at("probe"); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir.staging(), ".probe.*")
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(make([]byte, blockSize)); err != nil {
		return err
	}
	return f.Sync()
}
