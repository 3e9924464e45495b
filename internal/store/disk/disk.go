// Package disk keeps blobs as files in a directory. Its invariant: whatever instant the process is killed or the power
// goes, a file below blobs/ has the bytes of its name or is found out before a byte of it leaves, and losing any file
// costs time, nothing else.
//
//	VERSION  lock               whose directory this is, and in what layout
//	blobs/sha256/ab/abcdef…     verified bytes, read-only
//	staging/…                   fills in progress, resumable
//	metadata.db                 sizes, last uses, chunk sums and what staging holds: an index that the files can do without
//
// The order of a commit is: fsync the staged file, make it read-only, rename it, fsync its directory. The index is held
// in memory and written behind. What it does not know is found by walking the directory once, off the way of requests.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"container-registry-proxy/internal/durable"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// Config says where and how much. Only Directory and MaxSize are needed.
type Config struct {
	Directory string
	// MaxSize bounds the bytes of the directory: blobs, what is staged, and the index. It is more than zero.
	MaxSize int64
	// MinFree is the free space to leave to others on the file system.
	MinFree int64
	// Inactive is how long a blob is kept that nobody opens; 0 means for ever.
	Inactive time.Duration
	// Pinned reports whether a blob must not be evicted; nil means none is. It is called with a lock held and must not block.
	Pinned func(oci.Digest) bool
	// LockWait is how long Open waits for another process to give up the directory; 0 means 10 s.
	LockWait   time.Duration
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Store implements [store.Store].
type Store struct {
	cfg     Config
	dir     directory
	lock    *os.File
	db      *durable.DB
	log     *slog.Logger
	metrics *metrics
	sums    *sumCache
	now     func() time.Time
	fault   func(step string) error // tests only: called before each operation that changes the disk

	adopting atomic.Bool        // files may be there that the index does not know
	hashing  singleflight.Group // of blobs whose sums were lost, by digest
	names    names
	shards   shards
	changes  sync.WaitGroup // operations that change the directory, which Close waits for

	unlinking sync.Mutex // held while evicted files are removed

	mu        sync.Mutex // guards the fields that follow; never held across I/O
	index     map[oci.Digest]*entry
	order     *policy
	touched   []*entry // whose last use is not yet in the database
	stages    map[oci.Digest]*stage
	leftovers []*leftover // staged by stages that have ended, the oldest first
	evicted   []evicted   // whose files are still to be removed
	space     space
	foreign   foreign
	degraded  string
	needed    int64 // the space whose want is the reason, if it is
	released  bool  // the directory belongs to the next process
}

var _ store.Store = (*Store)(nil)

// Open takes the directory, creating it where it does not exist, and reads the index. It returns an error that names
// the holder if another process keeps the directory. Nothing runs until [Store.Run].
func Open(cfg Config) (_ *Store, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Pinned == nil {
		cfg.Pinned = func(oci.Digest) bool { return false }
	}
	if cfg.LockWait == 0 {
		cfg.LockWait = 10 * time.Second
	}
	s := &Store{
		cfg: cfg, dir: directory(cfg.Directory), log: cfg.Log, sums: newSumCache(), now: time.Now,
		names: newNames(),
		index: map[oci.Digest]*entry{}, order: newPolicy(), stages: map[oci.Digest]*stage{},
		space: space{limit: cfg.MaxSize},
	}
	s.metrics = newMetrics(cfg.Registerer, s)
	if err := s.dir.create(); err != nil {
		return nil, err
	}
	if s.lock, err = s.dir.lock(cfg.LockWait); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.lock.Close()
		}
	}()
	if err := s.dir.checkVersion(); err != nil {
		return nil, err
	}
	if s.db, err = durable.OpenDB(s.dir.database(), s.log); err != nil {
		return nil, err
	}
	s.space.index = s.db.Size()
	s.loadIndex()
	s.adopting.Store(true)
	if err := s.loadStaging(); err != nil {
		return nil, errors.Join(err, s.db.Close())
	}
	return s, nil
}

// DB is the database of the directory, for what belongs with the blobs. It is closed with the store.
func (s *Store) DB() *durable.DB { return s.db }

// Usage says how full the store is.
func (s *Store) Usage() store.Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return store.Usage{
		Bytes: s.space.blobs, Staged: s.space.staged, Limit: s.space.limit,
		Blobs: len(s.index), Degraded: s.degraded,
	}
}

// Remove makes the blob unseen at once.
func (s *Store) Remove(d oci.Digest) error {
	err := s.change(func() error {
		defer s.names.lock(d)()
		s.mu.Lock()
		if e := s.index[d]; e != nil {
			s.forget(e)
		}
		s.mu.Unlock()
		return s.unlinkBlob(d)
	})
	if err != nil {
		return fmt.Errorf("remove %s: %w", d, err)
	}
	return nil
}

// at is where tests make the disk fail, or the process die.
func (s *Store) at(step string) error {
	if s.fault == nil {
		return nil
	}
	return s.fault(step)
}

// run does one operation of the disk.
func (s *Store) run(step string, op func() error) error {
	if err := s.at(step); err != nil {
		return err
	}
	return op()
}

// trouble notes that the disk does not do what it should, and returns an error that matches [store.ErrNoSpace]: the
// caller goes on without the disk. Run finds out when it works again.
func (s *Store) trouble(err error) error { return s.degrade(err, blockSize) }

// full is trouble whose end is when n bytes can be had.
func (s *Store) full(n, free int64) error {
	return s.degrade(fmt.Errorf("disk is full: %d bytes needed, %d could be had, %d are to be left to others", n, max(free, 0), s.cfg.MinFree), n)
}

func (s *Store) degrade(err error, needed int64) error {
	s.mu.Lock()
	first := s.degraded == "" && !s.released
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

// Close gives the directory up at once, for another process to take. What is open stays readable, and what is being
// staged can be written and read on, but not committed: the next process takes up what is synced of it. Close may be
// called again.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.released {
		s.mu.Unlock()
		return nil
	}
	s.released = true
	unfinished := make([]*stage, 0, len(s.stages))
	for _, st := range s.stages {
		unfinished = append(unfinished, st)
	}
	s.mu.Unlock()
	s.changes.Wait()

	var errs []error
	for _, st := range unfinished {
		errs = append(errs, s.handOver(st))
	}
	s.saveTouched()
	s.syncLeftovers()
	errs = append(errs, s.db.Close(), unlock(s.lock))
	return errors.Join(errs...)
}

// directory is the path of the cache directory; its methods are the layout.
type directory string

func (d directory) blob(digest oci.Digest) string {
	return filepath.Join(d.shard(digest), digest.Hex())
}
func (d directory) shard(digest oci.Digest) string {
	return filepath.Join(string(d), "blobs", digest.Algorithm(), digest.Hex()[:2])
}

func (d directory) blobs() string             { return filepath.Join(string(d), "blobs") }
func (d directory) staging() string           { return filepath.Join(string(d), "staging") }
func (d directory) staged(name string) string { return filepath.Join(string(d), "staging", name) }
func (d directory) database() string          { return filepath.Join(string(d), "metadata.db") }

func (d directory) create() error {
	for _, dir := range []string{d.blobs(), d.staging()} {
		if err := durable.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cache directory %s: %w: it must be a directory that this process may write", d, err)
		}
		if err := realDirectory(dir); err != nil {
			return fmt.Errorf("cache directory %s: %w: remove what is there, or use another directory", d, err)
		}
	}
	return nil
}

// layoutVersion is the content of VERSION.
const layoutVersion = "1\n"

func (d directory) checkVersion() error {
	path := filepath.Join(string(d), "VERSION")
	got, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return durable.WriteFile(path, []byte(layoutVersion), 0o644)
	case err != nil:
		return err
	case string(got) != layoutVersion:
		return fmt.Errorf("cache directory %s: layout version is %.20q, this program knows %q: use the program that made it, or an empty directory", d, got, layoutVersion)
	}
	return nil
}
