package disk

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// OpenFaulty is Open with a function that is called before each operation that changes the disk, and makes it fail.
func OpenFaulty(cfg Config, fault func(step string) error) (*Store, error) { return open(cfg, fault) }

// SetNow replaces the clock, before the store is used.
func (s *Store) SetNow(now func() time.Time) { s.now = now }

// Upkeep, Retry and Sweep are what Run does now and then.
func (s *Store) Upkeep()                  { s.upkeep() }
func (s *Store) Retry() bool              { return s.retry() }
func (s *Store) Sweep(life time.Duration) { s.sweep(s.now().Add(-life)) }

// Survey is what Run does at first.
func (s *Store) Survey(ctx context.Context) { s.survey(ctx) }

// Small is the size up to which a blob is small.
const Small = small

// StagedPath is the path of a stage's file.
func StagedPath(st store.Stage) string {
	own := st.(*stage)
	return own.store.dir.staged(own.name)
}

// BlobPath is the path of a blob's file.
func (s *Store) BlobPath(d oci.Digest) string { return s.dir.blob(d) }

// Leftovers are the digests of which something is left, with the size of the blob.
func (s *Store) Leftovers() map[oci.Digest]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[oci.Digest]int64{}
	for _, l := range s.leftovers {
		found[l.digest] = l.Size
	}
	return found
}

// Audit compares the account and the index with the directory of a store that nobody uses at the moment.
func (s *Store) Audit() error {
	s.loaded()
	s.mu.Lock()
	defer s.mu.Unlock()
	files, err := s.files()
	if err != nil {
		return err
	}
	var bytes, left int64
	for d, e := range s.index {
		size, ok := files[s.dir.blob(d)]
		if !ok || size != e.size {
			return fmt.Errorf("%s is in the index with %d bytes, on disk: %v, %d bytes", d, e.size, ok, size)
		}
		delete(files, s.dir.blob(d))
		bytes += blocks(e.size)
	}
	for _, l := range s.leftovers {
		if _, ok := files[s.dir.staged(l.Name)]; !ok {
			return fmt.Errorf("%s is a leftover without a file", l.digest)
		}
		delete(files, s.dir.staged(l.Name))
		left += l.bytes
	}
	queued := s.order.small.count + s.order.main.count
	switch {
	case len(files) > 0:
		return fmt.Errorf("files that nobody knows: %v", files)
	case s.space.blobs != bytes, s.space.staged != left, s.space.open != 0, s.space.promised != 0:
		return fmt.Errorf("account %+v, want %d bytes of blobs and %d staged", s.space, bytes, left)
	case queued != len(s.index), len(s.stages) > 0, len(s.evicted) > 0:
		return fmt.Errorf("%d blobs, %d in queues, %d stages, evicted: %v", len(s.index), queued, len(s.stages), s.evicted)
	}
	return nil
}

// files are the sizes of all files of blobs and in staging.
func (s *Store) files() (map[string]int64, error) {
	found := map[string]int64{}
	for _, dir := range []string{s.dir.blobs(), s.dir.staging()} {
		err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			info, err := entry.Info()
			if err == nil {
				found[path] = info.Size()
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}
