package metadata

import (
	"encoding/json"
	"strings"

	"github.com/maypok86/otter/v2"
)

// table is a bucket of the database with the records most in use in memory, bounded in number. Memory and database agree
// at all times: both are read and changed under the lock of the key, which is held for the read of a mapped file at most.
type table[K comparable, V any] struct {
	db     DB
	bucket string
	key    func(K) string // in the database
	parse  func(string) K // the reverse
	encode func(V) []byte
	decode func([]byte) (V, bool) // not ok where the value is none of ours: then there is none
	// memory is keyed as the database is, and has pointers, so that all tables share the code of one cache: the compiler
	// makes it again for each other shape of key or value, at 300 kB each.
	memory *otter.Cache[string, *V]
}

// inMemory is how many records of a table are kept in memory: at some 300 bytes each, what a busy day touches fits.
const inMemory = 16 << 10

func newTable[K comparable, V any](db DB, bucket string, key func(K) string, parse func(string) K, encode func(V) []byte, decode func([]byte) (V, bool)) *table[K, V] {
	memory := otter.Must(&otter.Options[string, *V]{MaximumSize: inMemory})
	return &table[K, V]{db: db, bucket: bucket, key: key, parse: parse, encode: encode, decode: decode, memory: memory}
}

// get returns a record, if there is one.
func (t *table[K, V]) get(k K) (v V, ok bool) {
	key := t.key(k)
	kept, ok := t.memory.GetIfPresent(key)
	if !ok {
		kept, ok = t.memory.ComputeIfAbsent(key, func() (*V, bool) {
			v, ok := t.load(key)
			return &v, !ok
		})
	}
	if !ok {
		return v, false
	}
	return *kept, true
}

func (t *table[K, V]) load(key string) (v V, ok bool) {
	b, ok := t.db.Get(t.bucket, key)
	if !ok {
		return v, false
	}
	return t.decode(b)
}

// update changes a record in one step: change is given the record as it is and returns it as it shall be, or false to
// leave it.
func (t *table[K, V]) update(k K, change func(v V, known bool) (V, bool)) {
	key := t.key(k)
	t.memory.Compute(key, func(kept *V, known bool) (*V, otter.ComputeOp) {
		var v V
		if known {
			v = *kept
		} else {
			v, known = t.load(key)
		}
		switch next, changed := change(v, known); {
		case changed:
			v = next
			t.db.Put(t.bucket, key, t.encode(v))
		case !known:
			return nil, otter.CancelOp
		}
		return &v, otter.WriteOp
	})
}

// set is update where what the record was does not matter: the database is not read for it.
func set[K, V comparable](t *table[K, V], k K, v V) {
	key := t.key(k)
	t.memory.Compute(key, func(kept *V, known bool) (*V, otter.ComputeOp) {
		if known && *kept == v {
			return nil, otter.CancelOp
		}
		t.db.Put(t.bucket, key, t.encode(v))
		return &v, otter.WriteOp
	})
}

// remove deletes a record.
func (t *table[K, V]) remove(k K) {
	key := t.key(k)
	t.memory.Compute(key, func(*V, bool) (*V, otter.ComputeOp) {
		t.db.Delete(t.bucket, key)
		return nil, otter.InvalidateOp
	})
}

// keys returns the keys that begin with prefix in the database.
func (t *table[K, V]) keys(prefix string) []K {
	found := map[string]bool{}
	t.db.Scan(t.bucket, prefix, func(key string, _ []byte) bool {
		found[key] = true
		return true
	})
	for key := range t.memory.Keys() { // a database that was lost has less than memory
		if strings.HasPrefix(key, prefix) {
			found[key] = true
		}
	}
	keys := make([]K, 0, len(found))
	for key := range found {
		keys = append(keys, t.parse(key))
	}
	return keys
}

func toJSON[V any](v V) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs of strings, numbers and times always marshal
	}
	return b
}

func fromJSON[V any](b []byte) (v V, ok bool) {
	err := json.Unmarshal(b, &v)
	return v, err == nil
}
