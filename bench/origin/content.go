// Package origin is the registry that the benchmark's proxies fill from. Its invariant: what it serves costs no memory
// and hardly any time, so that it is never what is measured. A blob is a seed and a size, from a kilobyte to
// gigabytes; its bytes are made while they are sent. The origin limits the rate of a connection when told to, and counts
// what it is asked for. It checks no credentials and speaks HTTP/1.1 alone.
package origin

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"sync"
)

// Blob names content that is made on demand: equal values have equal bytes, and blobs of other seeds other digests.
type Blob struct {
	Seed uint64
	Size int64
}

// block is the unit of content: the same random bytes again and again, but for a head that has the seed and the number
// of the block. Nobody on the way compresses, so no more variety is needed than makes each block unlike every other.
const block = 64 << 10

// pattern is what all blocks share.
var pattern = sync.OnceValue(func() []byte {
	p := make([]byte, block)
	source := rand.NewChaCha8([32]byte{})
	_, _ = source.Read(p) // it never fails
	return p
})

// ReadAt puts the bytes from off on into p and returns how many there were: less than len(p) only at the blob's end.
func (b Blob) ReadAt(p []byte, off int64) int {
	p = p[:max(0, min(int64(len(p)), b.Size-off))]
	for n := 0; n < len(p); {
		number, within := (off+int64(n))/block, (off+int64(n))%block
		copied := copy(p[n:], pattern()[within:])
		if head := b.head(number); within < int64(len(head)) {
			copy(p[n:n+copied], head[within:])
		}
		n += copied
	}
	return len(p)
}

// head is what a block begins with.
func (b Blob) head(number int64) [16]byte {
	var h [16]byte
	binary.BigEndian.PutUint64(h[:], b.Seed)
	binary.BigEndian.PutUint64(h[8:], uint64(number))
	return h
}

// Digest hashes the whole blob, at close to 2 GB/s.
func (b Blob) Digest() string {
	hash := sha256.New()
	buffer := make([]byte, 256<<10)
	for off := int64(0); off < b.Size; {
		n := b.ReadAt(buffer, off)
		_, _ = hash.Write(buffer[:n]) // a hash never fails
		off += int64(n)
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil))
}
