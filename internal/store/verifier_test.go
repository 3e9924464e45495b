package store_test

import (
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// What is on disks was written with this function, on whatever processor: the values are those of xxHash itself.
func TestSum(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{"": 0x2d06800538d394c2, "a": 0xe6c632b61e964e1f, "abc": 0x78af5f94892f3950} {
		if got := store.Sum([]byte(text)); got != want {
			t.Errorf("sum of %q is %#x, want %#x", text, got, want)
		}
	}
}

// The sums do not depend on the parts in which a blob was written.
func TestSumsOfParts(t *testing.T) {
	t.Parallel()
	data := make([]byte, 2*store.ChunkSize+77)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
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
