package disk

import (
	"cmp"
	"maps"
	"slices"

	"container-registry-proxy/internal/oci"
)

// To read the index of a million blobs takes seconds. Nobody who asks for a blob waits for that after a start: its record is
// read ahead of the others. What changes the directory waits, as it has to know how full that is.

// loaded returns once the index is whole. The first to call it reads it.
func (s *Store) loaded() { s.loading.Do(s.loadIndex) }

// loadAtOnce is how many records are read before others get at the database: who writes to it waits for the reads that have
// begun, and whoever reads then waits for the write.
const loadAtOnce = 1000

// loadIndex reads what an earlier process knew, without looking at the files.
func (s *Store) loadIndex() {
	var found []*entry
	for after, more := "", true; more; {
		keys, values := s.db.Page(bucketBlobs, after, loadAtOnce)
		for i, key := range keys {
			d, err := oci.ParseDigest(key)
			if e, ok := parseRecord(d, values[i]); err == nil && ok {
				found = append(found, e)
			}
			after = key
		}
		more = len(keys) == loadAtOnce && !s.givenUp() // the next process waits for us
	}
	slices.SortFunc(found, byUse)
	s.merge(found)
	if err := s.db.Forget(); err != nil {
		s.log.Error("database cannot be opened again: nothing more is known of what registries said", "err", err)
	}
}

// merge makes the index whole, most of it before it takes the lock. What was read ahead has been used last.
func (s *Store) merge(found []*entry) {
	index, order, bytes := make(map[oci.Digest]*entry, len(found)), newPolicy(), int64(0)
	for _, e := range found {
		index[e.digest] = e
		order.restore(e)
		bytes += blocks(e.size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range slices.SortedFunc(maps.Values(s.index), byUse) { // read ahead, and on the account
		if twin := index[e.digest]; twin != nil {
			order.remove(twin)
			bytes -= blocks(twin.size)
		}
		index[e.digest] = e
		order.restore(e)
	}
	s.index, s.order, s.partial = index, order, false
	s.space.blobs += bytes
}

func byUse(a, b *entry) int { return cmp.Compare(a.used, b.used) }

// loadAhead takes a blob into an index that is not whole yet, if an earlier process knew it. The caller holds mu, which is
// released meanwhile.
func (s *Store) loadAhead(d oci.Digest) {
	s.mu.Unlock()
	value, _ := s.db.Get(bucketBlobs, string(d))
	e, ok := parseRecord(d, value)
	s.mu.Lock()
	if ok && s.partial && s.index[d] == nil {
		s.restore(e)
	}
}

// restore puts an entry into the index whose file is there already. The caller holds mu.
func (s *Store) restore(e *entry) {
	s.index[e.digest] = e
	s.order.restore(e)
	s.space.blobs += blocks(e.size)
}
