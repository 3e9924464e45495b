package durable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// flushEvery is how long a write may wait for the disk. All writes of that time cost one fsync.
const flushEvery = time.Second

// DB is an embedded key-value store, written behind: a write returns at once, is seen by all reads that follow, and
// becomes durable within [flushEvery] of [DB.Run] or at [DB.Close]. Nothing in it may be needed for correctness: a
// damaged file is set aside and begun anew, with a warning. All methods are safe for concurrent use. After Close reads
// find nothing and writes are dropped.
type DB struct {
	path  string
	log   *slog.Logger
	dirty chan struct{} // holds a token while something waits to be flushed

	flushing sync.Mutex // held by the one flush at a time, and taken before mu

	mu      sync.RWMutex // guards the fields that follow; held while reading the file, not while writing it
	file    *bolt.DB     // nil after Close
	pending batch        // to be written
	writing batch        // being written
}

// batch is a set of writes: bucket → key → value, a nil value being a deletion.
type batch map[string]map[string][]byte

func (b batch) get(bucket, key string) (value []byte, ok bool) {
	value, ok = b[bucket][key]
	return value, ok
}

func (b batch) put(bucket, key string, value []byte) {
	if b[bucket] == nil {
		b[bucket] = map[string][]byte{}
	}
	b[bucket][key] = value
}

// OpenDB opens the database at path, or creates it. Only one process may have it open; another one's attempt fails
// after a second. A nil log discards.
func OpenDB(path string, log *slog.Logger) (*DB, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	db := &DB{path: path, log: log, dirty: make(chan struct{}, 1), pending: batch{}}
	if err := db.open(); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

func (db *DB) open() error {
	file, err := openFile(db.path, nil)
	if errors.Is(err, errDamaged) {
		if err := db.setAside(err); err != nil {
			return err
		}
		file, err = openFile(db.path, nil)
	}
	db.file = file
	return err
}

// setAside renames a damaged file, which is kept for whoever wants to know why.
func (db *DB) setAside(why error) error {
	aside := db.path + ".damaged"
	db.log.Warn("database is damaged: set aside and begun anew, at the cost of questions to registries", "path", db.path, "aside", aside, "err", why)
	return os.Rename(db.path, aside)
}

// errDamaged marks what a database file that is not one causes.
var errDamaged = errors.New("database is damaged")

// openFile opens the database at path, in a file that is open already unless that is nil.
func openFile(path string, opened *os.File) (file *bolt.DB, err error) {
	open := os.OpenFile
	if opened != nil {
		open = func(string, int, os.FileMode) (*os.File, error) { return opened, nil }
	}
	err = guarded(func() error {
		// The list of free pages stays in the file: to rebuild it, bbolt walks all pages in a goroutine of its own, where
		// a damaged one ends the process.
		file, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType, OpenFile: open})
		return err
	})
	var system *os.PathError
	if err != nil && !errors.Is(err, bolt.ErrTimeout) && !errors.As(err, &system) && !errors.Is(err, errDamaged) {
		err = fmt.Errorf("%w: %w", errDamaged, err) // bbolt has errors for each way of not being a database
	}
	return file, err
}

// guarded turns the panics with which bbolt meets damaged pages, and the faults of a mapped file that has been cut
// short, into errors.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	return f()
}

// Get returns the value of a key.
func (db *DB) Get(bucket, key string) ([]byte, bool) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	for _, b := range []batch{db.pending, db.writing} {
		if value, ok := b.get(bucket, key); ok {
			return value, value != nil
		}
	}
	var value []byte
	db.view(func(tx *bolt.Tx) {
		if b := tx.Bucket([]byte(bucket)); b != nil {
			value = bytes.Clone(b.Get([]byte(key)))
		}
	})
	return value, value != nil
}

// Scan visits the keys that begin with prefix, in no order, until visit returns false. Visit must not use the DB, nor keep
// or change the value.
func (db *DB) Scan(bucket, prefix string, visit func(key string, value []byte) bool) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	unwritten := map[string][]byte{}
	for _, b := range []batch{db.writing, db.pending} {
		for key, value := range b[bucket] {
			if strings.HasPrefix(key, prefix) {
				unwritten[key] = value
			}
		}
	}
	for key, value := range unwritten {
		if value != nil && !visit(key, value) {
			return
		}
	}
	db.view(func(tx *bolt.Tx) {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return
		}
		cursor := b.Cursor()
		for k, v := cursor.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = cursor.Next() {
			if _, newer := unwritten[string(k)]; !newer && !visit(string(k), v) {
				return
			}
		}
	})
}

// Page returns the records that come after a key, in the order of keys: fewer than limit if there are no more. Those that
// have not been written yet are not among them; of others the newest value is.
func (db *DB) Page(bucket, after string, limit int) (keys []string, values [][]byte) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	db.view(func(tx *bolt.Tx) {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return
		}
		cursor := b.Cursor()
		for k, v := cursor.Seek([]byte(after)); k != nil && len(keys) < limit; k, v = cursor.Next() {
			key, value := string(k), v
			for _, unwritten := range []batch{db.writing, db.pending} {
				if newer, ok := unwritten.get(bucket, key); ok {
					value = newer
				}
			}
			if key != after && value != nil {
				keys, values = append(keys, key), append(values, bytes.Clone(value))
			}
		}
	})
	return keys, values
}

// view reads the file; one that turns out to be damaged has nothing in it. The caller holds mu.
func (db *DB) view(read func(*bolt.Tx)) {
	if db.file == nil {
		return
	}
	err := guarded(func() error {
		return db.file.View(func(tx *bolt.Tx) error { read(tx); return nil })
	})
	if err != nil {
		db.log.Error("read database", "path", db.path, "err", err)
	}
}

// Put sets the value of a key, which the DB keeps: the caller does not change it afterwards.
func (db *DB) Put(bucket, key string, value []byte) {
	if value == nil {
		value = []byte{}
	}
	db.write(bucket, key, value)
}

// Delete removes a key. One that is not there is no error.
func (db *DB) Delete(bucket, key string) { db.write(bucket, key, nil) }

func (db *DB) write(bucket, key string, value []byte) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.file == nil {
		return
	}
	db.pending.put(bucket, key, value)
	select {
	case db.dirty <- struct{}{}:
	default:
	}
}

// Run writes behind until ctx ends.
func (db *DB) Run(ctx context.Context) error {
	pace := time.NewTicker(flushEvery)
	defer pace.Stop()
	for {
		select {
		case <-db.dirty:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := db.Flush(); err != nil {
			db.log.Error("write database", "path", db.path, "err", err)
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Flush writes what is pending. What cannot be written stays pending; a damaged file is replaced by one that has only
// what was pending.
func (db *DB) Flush() error {
	db.flushing.Lock()
	defer db.flushing.Unlock()
	db.mu.Lock()
	file := db.file
	if file == nil || len(db.pending) == 0 {
		db.mu.Unlock()
		return nil
	}
	db.writing, db.pending = db.pending, batch{}
	db.mu.Unlock()

	err := guarded(func() error { return file.Update(db.writing.store) })
	if errors.Is(err, errDamaged) {
		err = db.renew(err)
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if err != nil {
		db.keep()
	}
	db.writing = nil
	return err
}

// renew replaces a damaged file by a new one with what is being written. The old one is not closed: its locks of this
// process may be held by the transaction that found the damage. It goes with the process.
func (db *DB) renew(why error) error {
	if err := db.setAside(why); err != nil {
		return err
	}
	file, err := openFile(db.path, nil)
	if err != nil {
		return err
	}
	db.mu.Lock()
	db.file = file
	db.mu.Unlock()
	return file.Update(db.writing.store)
}

// keep makes what could not be written pending again, below what was written since. The caller holds mu.
func (db *DB) keep() {
	for bucket, values := range db.writing {
		for key, value := range values {
			if _, newer := db.pending.get(bucket, key); !newer {
				db.pending.put(bucket, key, value)
			}
		}
	}
}

func (b batch) store(tx *bolt.Tx) error {
	for name, values := range b {
		bucket, err := tx.CreateBucketIfNotExists([]byte(name))
		if err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(values)) { // in order, each finds its page at hand
			value := values[key]
			if value == nil {
				err = bucket.Delete([]byte(key))
			} else {
				err = bucket.Put([]byte(key), value)
			}
			if err != nil {
				return fmt.Errorf("%s %q: %w", name, key, err)
			}
		}
	}
	return nil
}

// Forget gives back the memory that reads have taken: the file is mapped, and each page that was read counts as the
// process's own until the system needs it. What is pending stays so. Where the file cannot be opened anew, as when the
// process has all the files that it may have, nothing is given back. After an error the DB is as after Close.
func (db *DB) Forget() error {
	db.flushing.Lock()
	defer db.flushing.Unlock()
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.file == nil {
		return nil
	}
	anew, err := os.OpenFile(db.path, os.O_RDWR, 0) // before the other is closed
	if err != nil {
		return nil
	}
	err = guarded(db.file.Close)
	db.file = nil
	if err != nil {
		return errors.Join(err, anew.Close())
	}
	db.file, err = openFile(db.path, anew)
	return err
}

// Size is the size of the file in bytes.
func (db *DB) Size() int64 {
	info, err := os.Stat(db.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// Close writes what is pending and closes the file. It may be called again.
func (db *DB) Close() error {
	err := db.Flush()
	db.flushing.Lock()
	defer db.flushing.Unlock()
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.file == nil {
		return nil
	}
	cerr := guarded(db.file.Close)
	db.file, db.pending = nil, batch{}
	return errors.Join(err, cerr)
}
