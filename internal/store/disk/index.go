package disk

import (
	"encoding/binary"
	"slices"
	"time"

	"container-registry-proxy/internal/oci"
)

// The buckets of the database. Keys are digests.
const (
	bucketBlobs  = "blobs"  // record
	bucketSums   = "sums"   // the chunk sums of one that is not small, 8 bytes each, little-endian
	bucketStaged = "staged" // stagedRecord as JSON
)

// entry is a blob of the index. Its fields are guarded by Store.mu.
type entry struct {
	digest  oci.Digest
	size    int64
	used    int64 // unix seconds of the last use
	opens   int32 // open blobs and stages
	hits    uint8 // uses since the policy last looked, up to maxHits
	main    bool  // in the policy's main queue
	gone    bool  // removed while open
	touched bool  // on Store.touched
	prev    *entry
	next    *entry
}

// lookup returns the entry of d, counted as used and opened, or nil.
func (s *Store) lookup(d oci.Digest) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index[d] == nil && s.partial {
		s.loadAhead(d)
	}
	e := s.index[d]
	if e == nil {
		return nil
	}
	s.opened(e)
	s.order.hit(e)
	s.use(e, max(e.used, s.now().Unix()))
	return e
}

// use notes a time of last use, which saveTouched writes behind. The caller holds mu.
func (s *Store) use(e *entry, at int64) {
	e.used = at
	if !e.touched {
		e.touched = true
		s.touched = append(s.touched, e)
	}
}

// opened counts a use in progress. The caller holds mu.
func (s *Store) opened(e *entry) {
	if e.opens++; e.opens == 1 {
		s.space.open += blocks(e.size)
	}
}

// closed ends a use of e; the last one of a removed entry frees its space.
func (s *Store) closed(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.opens--; e.opens > 0 {
		return
	}
	s.space.open -= blocks(e.size)
	if e.gone {
		s.space.blobs -= blocks(e.size)
	}
}

// add puts a committed blob into the index and returns its entry, counted as opened. The caller holds mu.
func (s *Store) add(d oci.Digest, size int64, sums []uint64) *entry {
	if old := s.index[d]; old != nil {
		s.forget(old)
	}
	e := &entry{digest: d, size: size, used: s.now().Unix()}
	s.index[d] = e
	s.order.add(e)
	s.space.blobs += blocks(size)
	s.opened(e)
	s.db.Put(bucketBlobs, string(d), e.record())
	if size > small {
		s.db.Put(bucketSums, string(d), encodeSums(sums))
		s.sums.put(d, sums)
	}
	return e
}

// forget takes an entry off the index. Its space is free once nobody has it open. The caller holds mu and removes the
// file afterwards. Should the blob be committed again in between, the removal costs it its new file, and the next
// opening finds that out.
func (s *Store) forget(e *entry) {
	delete(s.index, e.digest)
	s.order.remove(e)
	e.gone = true
	if e.opens == 0 {
		s.space.blobs -= blocks(e.size)
	}
	s.db.Delete(bucketBlobs, string(e.digest))
	if e.size > small {
		s.db.Delete(bucketSums, string(e.digest))
		s.sums.forget(e.digest)
	}
}

// record is what the database keeps of an entry: size and last use, 8 bytes each, little-endian, and a byte with its
// place in the policy, main queue and hits.
func (e *entry) record() []byte {
	b := make([]byte, 0, 17)
	b = binary.LittleEndian.AppendUint64(b, uint64(e.size))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.used))
	place := e.hits << 1
	if e.main {
		place |= 1
	}
	return append(b, place)
}

// parseRecord is the entry of d that has such a record.
func parseRecord(d oci.Digest, b []byte) (e *entry, ok bool) {
	if len(b) != 17 {
		return nil, false
	}
	e = &entry{
		digest: d, size: int64(binary.LittleEndian.Uint64(b)), used: int64(binary.LittleEndian.Uint64(b[8:])),
		main: b[16]&1 == 1, hits: min(b[16]>>1, maxHits),
	}
	return e, e.size > 0 || e.size == 0 && d.Empty()
}

// saveTouched writes last uses behind, the oldest, and no more than most.
func (s *Store) saveTouched(most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.touched), most)
	for _, e := range s.touched[:n] {
		e.touched = false
		if !e.gone {
			s.db.Put(bucketBlobs, string(e.digest), e.record())
		}
	}
	s.touched = slices.Delete(s.touched, 0, n)
}

// inactive lists the blobs that nobody has opened since the time given. The caller holds mu. A use in the future is taken
// for one of now: a clock that was set back must not keep a blob for ever. That is not done when the index is read, since
// some machines learn the time only after they have started.
func (s *Store) inactive(since time.Time) []*entry {
	var found []*entry
	now := s.now().Unix()
	for _, e := range s.index {
		if e.used > now {
			s.use(e, now)
		}
		if e.used < since.Unix() && s.evictable(e) {
			found = append(found, e)
		}
	}
	return found
}
