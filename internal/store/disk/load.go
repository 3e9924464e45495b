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

// loadIndex reads what an earlier process knew, without looking at the files.
func (s *Store) loadIndex() {
	var found []*entry
	s.db.Scan(bucketBlobs, "", func(key string, value []byte) bool {
		d, err := oci.ParseDigest(key)
		if e, ok := parseRecord(d, value); err == nil && ok {
			found = append(found, e)
		}
		return true
	})
	slices.SortFunc(found, byUse)
	s.merge(found)
	if err := s.db.Forget(); err != nil {
		s.log.Error("database cannot be opened again: nothing more is known of what registries said", "err", err)
	}
}

// merge makes the index whole. What was read ahead has been used last.
func (s *Store) merge(found []*entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ahead := s.index
	s.index, s.order, s.partial = make(map[oci.Digest]*entry, len(found)), newPolicy(), false
	for _, e := range found {
		if ahead[e.digest] == nil {
			s.restore(e)
		}
	}
	for _, e := range slices.SortedFunc(maps.Values(ahead), byUse) {
		s.index[e.digest] = e
		s.order.restore(e)
	}
}

func byUse(a, b *entry) int { return cmp.Compare(a.used, b.used) }

// loadAhead takes a blob into an index that is not whole yet, if an earlier process knew it.
func (s *Store) loadAhead(d oci.Digest) {
	value, _ := s.db.Get(bucketBlobs, string(d))
	e, ok := parseRecord(d, value)
	s.mu.Lock()
	defer s.mu.Unlock()
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
