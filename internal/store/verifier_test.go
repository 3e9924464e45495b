package store_test

import (
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// What is on disks was written with this function, on whatever processor: the values are those of xxHash itself.
func TestSum(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]uint64{0: 0x2d06800538d394c2, store.ChunkSize: 0x56f490d29636498c, store.ChunkSize - 77: 0xf6e43390ff59af78} {
		if got := store.Sum(pattern(size)); got != want {
			t.Errorf("sum of %d bytes is %#x, want %#x", size, got, want)
		}
	}
}

func pattern(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	return b
}

// The sums do not depend on the parts in which a blob was written.
func TestSumsOfParts(t *testing.T) {
	t.Parallel()
	data := pattern(2*store.ChunkSize + 77)
	for _, part := range []int{1, 13, 1000, 16 << 10, store.ChunkSize, len(data)} {
		v := store.NewVerifier(oci.FromBytes(data))
		for rest := data; len(rest) > 0; {
			n, _ := v.Write(rest[:min(part, len(rest))])
			rest = rest[n:]
		}
		proof, err := v.Proof()
		if err != nil || len(proof.Sums()) != 3 {
			t.Fatalf("in parts of %d: %d sums, %v; want 3", part, len(proof.Sums()), err)
		}
		for i, sum := range proof.Sums() {
			if want := store.Sum(data[i*store.ChunkSize : min((i+1)*store.ChunkSize, len(data))]); sum != want {
				t.Errorf("in parts of %d: sum %d is %#x, want %#x", part, i, sum, want)
			}
		}
	}
}
