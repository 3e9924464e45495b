package fill

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// What may come of the one delivery of a small blob: it goes on where it stopped, what is wrong is not given out.
func TestASmallBlob(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		first   func(d *Delivery, b *body)
		fetches int
		fails   bool  // for the first reader; the next one succeeds
		again   int64 // bytes that upstream must send again
	}{
		"whole":        {func(*Delivery, *body) {}, 1, false, 0},
		"cut":          {func(_ *Delivery, b *body) { b.rest, b.end = b.rest[:1000], errors.New("reset") }, 2, false, 0},
		"cut at once":  {func(_ *Delivery, b *body) { b.rest, b.end = nil, errors.New("reset") }, 2, false, 0},
		"ended early":  {func(_ *Delivery, b *body) { b.rest = b.rest[:3000] }, 2, false, 0},
		"stalled":      {func(_ *Delivery, b *body) { b.stall = 2000 }, 2, false, 0},
		"a trickle":    {func(d *Delivery, b *body) { d.Body = &trickle{body: b} }, 2, false, 0},
		"wrong":        {func(_ *Delivery, b *body) { b.rest = bytes.Repeat([]byte("x"), len(b.rest)) }, 2, true, 4096},
		"wrong at end": {func(_ *Delivery, b *body) { b.rest = append(slices.Clone(b.rest[:4095]), ^b.rest[4095]) }, 2, true, 4096},
		"no size":      {func(d *Delivery, _ *body) { d.Size = -1 }, 1, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				blob, d := randomBlob(4096)
				o := &origin{name: "a", blob: blob, answer: func(n int, _ int64, d *Delivery, b *body) error {
					if n == 1 {
						tc.first(d, b)
					}
					return nil
				}}
				s := newMemStore()
				f := New(Config{Store: s})
				defer f.Close()
				began := time.Now()
				got, err := read(t.Context(), f, d, o, 0, -1)
				if tc.fails != (err != nil) || tc.fails && len(got) > 0 {
					t.Errorf("the first reader gets %d bytes, %v", len(got), err)
				}
				if tc.fails {
					got, err = read(t.Context(), f, d, o, 0, -1)
				}
				if err != nil || !bytes.Equal(got, blob) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				synctest.Wait()
				if !bytes.Equal(s.holds(d), blob) {
					t.Error("it is not kept")
				}
				if n, sent := o.seen(); n != tc.fetches || sent != int64(len(blob))+tc.again {
					t.Errorf("%d questions, %d bytes left upstream, want %d, %d", n, sent, tc.fetches, int64(len(blob))+tc.again)
				}
				if took := time.Since(began); took > 2*patience {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// Small blobs of all sizes, and one that is larger by a byte, cost one question each; whose they are is recorded before
// a byte is given out.
func TestSmallBlobsOfAllSizes(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 4096, small - 1, small, small + 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			blob, d := randomBlob(size)
			o := &origin{name: "a", blob: blob}
			s := newMemStore()
			var recorded atomic.Bool
			f := New(Config{Store: s, Verified: func(got oci.Digest, src Source) { recorded.Store(got == d && src == o) }})
			r, leads, err := f.Join(t.Context(), d, o, store.Extent{End: -1})
			if err != nil {
				t.Fatal(err)
			}
			if !leads {
				t.Error("the only reader does not lead")
			}
			got, err := io.ReadAll(r.Range(0, -1))
			if !recorded.Load() {
				t.Error("it was given out before it was recorded whose it is")
			}
			if err != nil || !bytes.Equal(got, blob) || r.Size() != int64(size) {
				t.Errorf("%d bytes of %d, %v", len(got), r.Size(), err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			f.Close()
			if n, sent := o.seen(); n != 1 || sent != int64(size) {
				t.Errorf("%d questions, %d bytes", n, sent)
			}
			if kept := s.holds(d); kept == nil || !bytes.Equal(kept, blob) {
				t.Error("it is not kept")
			}
		})
	}
}
