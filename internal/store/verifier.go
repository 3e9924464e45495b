package store

import (
	"fmt"
	"hash"

	"github.com/zeebo/xxh3"

	"container-registry-proxy/internal/oci"
)

// ChunkSize is the unit in which committed bytes are checked on their way out. A reader that wants one byte makes us
// read and sum one chunk; 64 KiB sums in 1 µs, and costs 8 bytes of sum, 0.012 % of the blob.
const ChunkSize = 64 << 10

// Sum is the XXH3 of one chunk (64 bits, as xxHash has had it since 0.8): it detects damage, it is no proof against malice.
// That is the digest's part.
func Sum(chunk []byte) uint64 { return xxh3.Hash(chunk) }

// Proof says that bytes of this size and with these chunk sums hash to the digest. The zero value proves nothing; only
// a [Verifier] makes another.
type Proof struct {
	digest oci.Digest
	size   int64
	sums   []uint64
}

// Digest is what the bytes hash to.
func (p Proof) Digest() oci.Digest { return p.digest }

// Size is how many bytes there are.
func (p Proof) Size() int64 { return p.size }

// Sums has the sum of every chunk of ChunkSize bytes, the last one possibly shorter.
func (p Proof) Sums() []uint64 { return p.sums }

// DigestError says that bytes were not what their name says.
type DigestError struct {
	Want oci.Digest
	Size int64
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s: the %d bytes received hash to something else", e.Want, e.Size)
}

// Verifier hashes a blob's bytes, written to it in order from the first to the last. It is not safe for concurrent use.
type Verifier struct {
	digest oci.Digest
	hash   hash.Hash
	size   int64
	sums   []uint64
	chunk  xxh3.Hasher // of the chunk in progress
}

// NewVerifier returns a Verifier that expects the bytes of d.
func NewVerifier(d oci.Digest) *Verifier {
	return &Verifier{digest: d, hash: d.Hash()}
}

// Write never fails.
func (v *Verifier) Write(p []byte) (int, error) {
	n := len(p)
	_, _ = v.hash.Write(p)
	for len(p) > 0 {
		room := int(ChunkSize - v.size%ChunkSize)
		part := p[:min(room, len(p))]
		_, _ = v.chunk.Write(part)
		v.size += int64(len(part))
		p = p[len(part):]
		if v.size%ChunkSize == 0 {
			v.sums = append(v.sums, v.chunk.Sum64())
			v.chunk.Reset()
		}
	}
	return n, nil
}

// Size is how many bytes have been written.
func (v *Verifier) Size() int64 { return v.size }

// Proof returns the proof, or a [*DigestError] if the bytes written so far are not the blob. It ends the use of v.
func (v *Verifier) Proof() (Proof, error) {
	if !v.digest.Matches(v.hash) {
		return Proof{}, &DigestError{Want: v.digest, Size: v.size}
	}
	if v.size%ChunkSize != 0 {
		v.sums = append(v.sums, v.chunk.Sum64())
	}
	return Proof{digest: v.digest, size: v.size, sums: v.sums}, nil
}
