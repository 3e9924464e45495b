package store_test

import (
	"math/rand/v2"
	"testing"

	"container-registry-proxy/internal/store"
)

func TestExtents(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var e store.Extents
		var model [64]bool
		for range 30 {
			start := r.Int64N(64)
			end := start + r.Int64N(64-start+1)
			e.Add(start, end)
			for i := start; i < end; i++ {
				model[i] = true
			}
			for off := range int64(64) {
				want := off
				for want < 64 && model[want] {
					want++
				}
				if got := e.End(off); got != want {
					t.Fatalf("after add(%d, %d): end(%d) = %d, want %d in %v", start, end, off, got, want, e)
				}
			}
		}
		for i := 1; i < len(e); i++ {
			if e[i-1].End >= e[i].Start {
				t.Fatalf("runs touch: %v", e)
			}
		}
	}
}
