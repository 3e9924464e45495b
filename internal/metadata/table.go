package metadata

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/maypok86/otter/v2"
)

// table is a bucket of the database with the records most in use in memory, bounded in number. Memory and database agree
// at all times: both are read and changed under the lock of the key, which is held for the read of a mapped file at most.
type table[K comparable, V any] struct {
	db     DB
	bucket string
	key    func(K) string // in the database
	parse  func(string) K // the reverse; needed where keys are looked for
	encode func(V) []byte
	decode func([]byte) (V, bool) // not ok where the value is none of ours: then there is none
	memory *otter.Cache[K, V]
}

// inMemory is how many records of a table are kept in memory: at some 300 bytes each, what a busy day touches fits.
const inMemory = 16 << 10

func newTable[K comparable, V any](db DB, bucket string, key func(K) string, encode func(V) []byte, decode func([]byte) (V, bool)) *table[K, V] {
	memory := otter.Must(&otter.Options[K, V]{MaximumSize: inMemory})
	return &table[K, V]{db: db, bucket: bucket, key: key, encode: encode, decode: decode, memory: memory}
}

// get returns a record, if there is one.
func (t *table[K, V]) get(k K) (V, bool) {
	if v, ok := t.memory.GetIfPresent(k); ok {
		return v, true
	}
	return t.memory.ComputeIfAbsent(k, func() (V, bool) {
		v, ok := t.load(k)
		return v, !ok
	})
}

func (t *table[K, V]) load(k K) (v V, ok bool) {
	b, ok := t.db.Get(t.bucket, t.key(k))
	if !ok {
		return v, false
	}
	return t.decode(b)
}

// update changes a record in one step: change is given the record as it is and returns it as it shall be, or false to
// leave it.
func (t *table[K, V]) update(k K, change func(v V, known bool) (V, bool)) {
	t.memory.Compute(k, func(v V, known bool) (V, otter.ComputeOp) {
		if !known {
			v, known = t.load(k)
		}
		v, changed := change(v, known)
		switch {
		case changed:
			t.db.Put(t.bucket, t.key(k), t.encode(v))
		case !known:
			return v, otter.CancelOp
		}
		return v, otter.WriteOp
	})
}

// remove deletes a record.
func (t *table[K, V]) remove(k K) {
	t.memory.Compute(k, func(v V, _ bool) (V, otter.ComputeOp) {
		t.db.Delete(t.bucket, t.key(k))
		return v, otter.InvalidateOp
	})
}

// keys returns the keys that begin with prefix in the database.
func (t *table[K, V]) keys(prefix string) []K {
	found := map[K]bool{}
	t.db.Scan(t.bucket, prefix, func(key string, _ []byte) bool {
		found[t.parse(key)] = true
		return true
	})
	for k := range t.memory.Keys() { // a database that was lost has less than memory
		if strings.HasPrefix(t.key(k), prefix) {
			found[k] = true
		}
	}
	return slices.Collect(maps.Keys(found))
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
