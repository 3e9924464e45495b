package cache

import (
	"time"

	"github.com/maypok86/otter/v2"

	"container-registry-proxy/internal/oci"
)

// smallObject is up to what size an object is kept in memory: manifests and configs are, layers are not.
const smallObject = 64 << 10

// storeSeesUse is how often an object that is served from memory is opened in the store all the same: the store would
// take it for one that nobody uses, and evict it.
const storeSeesUse = 10 * time.Minute

// memory keeps small verified objects, bounded by their bytes.
type memory struct {
	now     func() time.Time
	objects *otter.Cache[oci.Digest, *object]
}

// object is a small object, and when it was last put there.
type object struct {
	bytes []byte
	at    time.Time
}

// overhead is what an entry costs beside its bytes: the key, the value, the policy's node.
const overhead = 256

func newMemory(size int64, now func() time.Time) *memory {
	return &memory{now, otter.Must(&otter.Options[oci.Digest, *object]{
		MaximumWeight: uint64(size),
		Weigher:       func(_ oci.Digest, o *object) uint32 { return uint32(len(o.bytes) + overhead) },
	})}
}

// get returns an object, and whether it is time that the store sees its use.
func (m *memory) get(d oci.Digest) (b []byte, due, ok bool) {
	o, ok := m.objects.GetIfPresent(d)
	if !ok {
		return nil, false, false
	}
	age := m.now().Sub(o.at)
	return o.bytes, age < 0 || age >= storeSeesUse, true
}

func (m *memory) put(d oci.Digest, b []byte) {
	if len(b) <= smallObject {
		m.objects.Set(d, &object{b, m.now()})
	}
}
