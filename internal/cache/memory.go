package cache

import (
	"github.com/maypok86/otter/v2"

	"container-registry-proxy/internal/oci"
)

// smallObject is up to what size an object is kept in memory: manifests and configs are, layers are not.
const smallObject = 64 << 10

// memory keeps small verified objects, bounded by their bytes. A nil slice is never kept.
type memory struct {
	objects *otter.Cache[oci.Digest, []byte]
}

// overhead is what an entry costs beside its bytes: the key, the slice header, the policy's node.
const overhead = 256

func newMemory(size int64) *memory {
	return &memory{otter.Must(&otter.Options[oci.Digest, []byte]{
		MaximumWeight: uint64(size),
		Weigher:       func(_ oci.Digest, b []byte) uint32 { return uint32(len(b) + overhead) },
	})}
}

func (m *memory) get(d oci.Digest) ([]byte, bool) { return m.objects.GetIfPresent(d) }

func (m *memory) put(d oci.Digest, b []byte) {
	if len(b) <= smallObject {
		m.objects.Set(d, b)
	}
}
