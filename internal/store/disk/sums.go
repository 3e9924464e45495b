package disk

import (
	"encoding/binary"

	"github.com/maypok86/otter/v2"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// sumsInMemory bounds the chunk sums that are held in memory: those of 128 GiB of blobs.
const sumsInMemory = 16 << 20

// sumCache holds the chunk sums of the blobs used of late. It has pointers, as the program's other caches have: they
// share their code.
type sumCache struct {
	sums *otter.Cache[oci.Digest, *chunkSums]
}

type chunkSums struct{ sums []uint64 }

func newSumCache() *sumCache {
	const overhead = 200 // key, slice header, the policy's node
	return &sumCache{otter.Must(&otter.Options[oci.Digest, *chunkSums]{
		MaximumWeight: sumsInMemory,
		Weigher:       func(_ oci.Digest, s *chunkSums) uint32 { return uint32(8*len(s.sums) + overhead) },
	})}
}

func (c *sumCache) get(d oci.Digest) ([]uint64, bool) {
	if kept, ok := c.sums.GetIfPresent(d); ok {
		return kept.sums, true
	}
	return nil, false
}

func (c *sumCache) put(d oci.Digest, sums []uint64) { c.sums.Set(d, &chunkSums{sums}) }
func (c *sumCache) forget(d oci.Digest)             { c.sums.Invalidate(d) }

// knownSums returns the recorded sums of a blob, if there are as many as its size needs. Those of versions before, of 4
// bytes each, are too short: the blob is hashed once more.
func (s *Store) knownSums(d oci.Digest, size int64) ([]uint64, bool) {
	if sums, ok := s.sums.get(d); ok {
		return sums, true
	}
	value, ok := s.db.Get(bucketSums, string(d))
	if !ok || int64(len(value)) != 8*((size+store.ChunkSize-1)/store.ChunkSize) {
		return nil, false
	}
	sums := make([]uint64, len(value)/8)
	for i := range sums {
		sums[i] = binary.LittleEndian.Uint64(value[8*i:])
	}
	s.sums.put(d, sums)
	return sums, true
}

func encodeSums(sums []uint64) []byte {
	b := make([]byte, 0, 8*len(sums))
	for _, sum := range sums {
		b = binary.LittleEndian.AppendUint64(b, sum)
	}
	return b
}
