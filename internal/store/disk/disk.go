// Package disk keeps blobs as files in a directory. Its invariant: whatever instant the process is killed or the power
// goes, a file below blobs/ has the bytes of its name or is found out before a byte of it leaves, and losing any file
// costs time, nothing else.
//
//	VERSION  lock               whose directory this is, and in what layout
//	blobs/sha256/ab/abcdef…     verified bytes, read-only
//	staging/…                   fills in progress, resumable
//	metadata.db                 sizes, last uses, chunk sums and what staging holds: an index that the files can do without
//
// The order of a commit is: fsync the staged file, make it read-only, rename it, fsync its directory. Small blobs are
// hashed whenever they are opened, and are synced together a little later (see small). The index is held in memory: it is
// read behind after a start (see load.go), and written behind. What it does not know is found by walking the directory once,
// off the way of requests.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
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
	unsynced atomic.Bool        // small blobs may be that have been committed
	hashing  singleflight.Group // of blobs whose sums were lost, by digest
	names    names
	shards   shards
	loading  sync.Once      // of the index
	changes  sync.WaitGroup // operations that change the directory, which Close waits for

	unlinking sync.Mutex // held while evicted files are removed

	mu        sync.Mutex // guards the fields that follow; never held across I/O
	index     map[oci.Digest]*entry
	partial   bool // the index is there and has not been read yet
	order     *policy
	touched   []*entry // whose last use is not yet in the database
	stages    map[oci.Digest]*stage
	leftovers []*leftover // staged by stages that have ended, the oldest first
	evicted   []evicted   // whose files are still to be removed
	space     space
	foreign   foreign
	degraded  string
	needed    int64 // the space whose want is the reason, if it is
	away      error // why the directory is not ours: not yet, or no longer
}

var (
	_ store.Store     = (*Store)(nil)
	_ store.Resumable = (*Store)(nil)
)

// Open takes the directory, creating it where it does not exist. It returns an error that names the holder if another
// process keeps the directory. A disk that is full, read-only or failing is no error: the store keeps nothing until it has
// recovered. Nothing runs until [Store.Run].
func Open(cfg Config) (*Store, error) { return open(cfg, nil) }

func open(cfg Config, fault func(step string) error) (*Store, error) {
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
		cfg: cfg, dir: directory(cfg.Directory), log: cfg.Log, sums: newSumCache(), now: time.Now, fault: fault,
		names: newNames(), index: map[oci.Digest]*entry{}, order: newPolicy(), stages: map[oci.Digest]*stage{},
		space: space{limit: cfg.MaxSize},
	}
	var err error
	if s.lock, err = s.take(cfg.LockWait); err == nil {
		err = s.load()
	}
	if err != nil {
		if err = s.without(err); err != nil {
			return nil, err
		}
	}
	s.metrics = newMetrics(cfg.Registerer, s)
	return s, nil
}

// take makes the directory ours, for as long as the file it returns is open.
func (s *Store) take(wait time.Duration) (*os.File, error) {
	if err := s.at("take"); err != nil {
		return nil, err
	}
	if err := s.dir.create(); err != nil {
		return nil, err
	}
	lock, err := s.dir.lock(wait)
	if err != nil {
		return nil, err
	}
	if err := s.dir.checkVersion(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// load finds what earlier processes have left. If it fails the directory is not ours.
func (s *Store) load() error {
	err := s.openDB()
	if err == nil {
		s.space.index = s.db.Size()
		s.adopting.Store(true)
		if err = s.loadStaging(); err == nil {
			s.partial = true
			return nil
		}
		err = errors.Join(err, s.db.Close())
	}
	err = errors.Join(err, s.lock.Close())
	s.lock = nil
	return err
}

func (s *Store) openDB() error {
	if _, err := statFile(s.dir.database()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := durable.OpenDB(s.dir.database(), s.log)
	s.db = db
	return err
}

// DB is the database of the directory, for what belongs with the blobs. It is closed with the store.
func (s *Store) DB() *durable.DB { return s.db }

// Degraded is why the store does not keep what it should, or empty.
func (s *Store) Degraded() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.degraded
}

// Usage says how full the store is. It waits for the index.
func (s *Store) Usage() store.Usage {
	s.loaded()
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

// Close gives the directory up at once, for another process to take. What is open stays readable, and what is being
// staged can be written and read on, but not committed: the next process takes up what is synced of it. Close may be
// called again.
func (s *Store) Close() error {
	s.mu.Lock()
	if errors.Is(s.away, errReleased) {
		s.mu.Unlock()
		return nil
	}
	s.away = errReleased
	unfinished := make([]*stage, 0, len(s.stages))
	for _, st := range s.stages {
		unfinished = append(unfinished, st)
	}
	s.mu.Unlock()
	s.loading.Do(func() {}) // who closes at once has no use for it
	s.changes.Wait()

	var errs []error
	most := int64(handOverSync)
	for _, st := range unfinished {
		var err error
		most, err = s.handOver(st, most)
		errs = append(errs, err)
	}
	s.saveTouched(math.MaxInt)
	s.syncSmall()
	s.syncLeftovers()
	errs = append(errs, s.db.Close())
	if s.lock != nil {
		errs = append(errs, unlock(s.lock))
	}
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

// makeShard makes the directory of a blob if it is not there, and those of all other blobs of its algorithm, as far as there
// is room: one fsync does for all of them.
func (d directory) makeShard(digest oci.Digest) error {
	shard := d.shard(digest)
	if _, err := os.Stat(shard); err == nil {
		return nil
	}
	all := filepath.Dir(shard)
	if err := durable.MkdirAll(all, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(shard, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for i := range 256 {
		_ = os.Mkdir(filepath.Join(all, fmt.Sprintf("%02x", i)), 0o755) // or when a blob of it comes
	}
	return durable.SyncDir(all)
}

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
	got, err := readFile(path, 64)
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
