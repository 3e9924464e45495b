package fill

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// permanentError is a refusal that stays.
type permanentError struct{ error }

func (permanentError) Permanent() bool { return true }

// A caller that is let in for what its own source delivers gets nothing of another's, and its source is not recorded as
// having delivered what it did not.
func TestALeaderGetsNothingOfAnothersSource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		denied := permanentError{errors.New("404")}
		evil := &origin{name: "evil", blob: make([]byte, len(blob))}
		copy(evil.blob, blob[:100_000]) // all it knows
		evil.answer = func(n int, _ int64, _ *Delivery, b *body) error {
			b.rest, b.end = b.rest[:100_000], errors.New("reset")
			if n > 1 {
				return denied
			}
			return nil
		}
		evil.pace = time.Second
		var proven []string
		s := newMemStore()
		f := New(Config{Store: s, Verified: func(_ oci.Digest, src Source) { proven = append(proven, src.Key()) }})
		leader, leads, err := f.Join(t.Context(), d, evil, store.Extent{End: -1})
		if err != nil || !leads {
			t.Fatalf("Join: leads %t, %v", leads, err)
		}
		defer leader.Close()
		var wg sync.WaitGroup
		wg.Go(func() {
			r, leads, err := f.Join(t.Context(), d, &origin{name: "good", blob: blob}, store.Extent{End: -1})
			if err != nil || leads {
				t.Errorf("the follower's Join: leads %t, %v", leads, err)
				return
			}
			defer r.Close()
			if got, err := drain(r.Range(0, -1), r.Size()); err != nil || !bytes.Equal(got, blob) {
				t.Errorf("the follower got %d bytes, %v", len(got), err)
			}
		})
		n, err := io.Copy(io.Discard, leader.Range(0, -1))
		if n > 100_000 || !errors.Is(err, errNotLed) {
			t.Errorf("the leader got %d bytes, %v; its source has delivered 100000", n, err)
		}
		wg.Wait()
		f.Close()
		if len(proven) != 0 || !bytes.Equal(s.holds(d), blob) {
			t.Errorf("proven: %v, want nobody, for none delivered all of it; %d bytes in the store", proven, len(s.holds(d)))
		}
	})
}

func TestWhoLeads(t *testing.T) {
	t.Parallel()
	blob, d := randomBlob(1 << 20)
	for name, tc := range map[string]struct {
		prepare func(*memStore)
		leads   bool
	}{
		"nothing is there": {func(*memStore) {}, true},
		"an earlier fill has left a part of it": {func(s *memStore) {
			stage, _ := s.Stage(d, int64(len(blob)))
			_, _ = stage.WriteAt(blob[:500_000], 0)
			_ = stage.Close()
		}, false},
		"an earlier fill has left all of it": {func(s *memStore) {
			stage, _ := s.Stage(d, int64(len(blob)))
			_, _ = stage.WriteAt(blob, 0)
			_ = stage.Close()
		}, false},
		"it has been committed since the caller looked": {func(s *memStore) { s.blobs[d] = blob }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newMemStore()
			tc.prepare(s)
			there := int64(len(s.blobs[d])) + s.stagedBytes(d)
			proven := 0
			o := &origin{name: "a", blob: blob}
			f := New(Config{Store: s, Verified: func(oci.Digest, Source) { proven++ }})
			r, leads, err := f.Join(t.Context(), d, o, store.Extent{End: -1})
			if err != nil || leads != tc.leads {
				t.Fatalf("Join: leads %t, %v, want %t", leads, err, tc.leads)
			}
			if got, err := drain(r.Range(0, -1), r.Size()); err != nil || !bytes.Equal(got, blob) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			_ = r.Close()
			f.Close()
			if _, sent := o.seen(); sent != int64(len(blob))-there {
				t.Errorf("%d bytes left upstream, with %d of %d there", sent, there, len(blob))
			}
			if (proven == 1) != tc.leads {
				t.Errorf("the source was recorded %d times", proven)
			}
		})
	}
}

// Who comes while another's source is being asked in vain leads: all that it gets is its own source's.
func TestWhoFollowsARefusalLeads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		denied := permanentError{errors.New("429")}
		joined := make(chan struct{})
		limited := &origin{name: "limited", blob: blob, answer: func(int, int64, *Delivery, *body) error { <-joined; return denied }}
		f := New(Config{Store: newMemStore()})
		defer f.Close()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, _, err := f.Join(t.Context(), d, limited, store.Extent{End: -1}); !errors.Is(err, denied) {
				t.Errorf("the first Join: %v, want its source's refusal", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			r, leads, err := f.Join(t.Context(), d, &origin{name: "mirror", blob: blob}, store.Extent{End: -1})
			if err != nil || !leads {
				t.Errorf("the second Join: leads %t, %v, want that it does", leads, err)
				return
			}
			defer r.Close()
			if got, err := drain(r.Range(0, -1), r.Size()); err != nil || !bytes.Equal(got, blob) {
				t.Errorf("it got %d bytes, %v", len(got), err)
			}
		})
		synctest.Wait()
		close(joined)
		wg.Wait()
	})
}

// A source that cannot go on for the time being gives way to another.
func TestTheNextSourceTakesOverInTheMiddle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		dies := &origin{name: "dies", blob: blob, pace: 100 * time.Millisecond}
		dies.answer = func(n int, _ int64, _ *Delivery, b *body) error {
			if n > 1 {
				return errors.New("503")
			}
			b.rest, b.end = b.rest[:500_000], errors.New("reset")
			return nil
		}
		f := New(Config{Store: newMemStore()})
		defer f.Close()
		go func() { _, _ = read(t.Context(), f, d, dies, 0, -1) }()
		time.Sleep(time.Second)
		good := &origin{name: "good", blob: blob}
		if got, err := read(t.Context(), f, d, good, 0, -1); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if _, sent := good.seen(); sent != int64(len(blob))-500_000 {
			t.Errorf("the second source sent %d bytes, want the rest alone", sent)
		}
	})
}

// What an earlier fill has staged of another size is of no use, and the blob is had all the same.
func TestALeftoverOfAnotherSize(t *testing.T) {
	t.Parallel()
	blob, d := randomBlob(1 << 20)
	s := newMemStore()
	stage, _ := s.Stage(d, 2<<20)
	_, _ = stage.WriteAt(make([]byte, 600_000), 0)
	_ = stage.Close()
	f := New(Config{Store: s})
	got, err := read(t.Context(), f, d, &origin{name: "a", blob: blob}, 0, -1)
	f.Close()
	if err != nil || !bytes.Equal(got, blob) || !bytes.Equal(s.holds(d), blob) {
		t.Errorf("%d bytes, %v; %d in the store", len(got), err, len(s.holds(d)))
	}
}

// A leftover whose source is gone stays for the next.
func TestALeftoverThatNobodyCompletes(t *testing.T) {
	t.Parallel()
	blob, d := randomBlob(1 << 20)
	s := newMemStore()
	stage, _ := s.Stage(d, 1<<20)
	_, _ = stage.WriteAt(blob[:600_000], 0)
	_ = stage.Close()
	f := New(Config{Store: s})
	down := errors.New("down")
	if _, err := read(t.Context(), f, d, &origin{name: "a", err: down}, 0, -1); !errors.Is(err, down) {
		t.Errorf("%v, want the source's error", err)
	}
	got, err := read(t.Context(), f, d, sourceFunc(func(ctx context.Context, start, end int64) (*Delivery, error) {
		if start != 600_000 {
			t.Errorf("asked for byte %d", start)
		}
		return (&origin{name: "b", blob: blob}).Fetch(ctx, start, end)
	}), 0, -1)
	f.Close()
	if err != nil || !bytes.Equal(got, blob) || s.misused.Load() != 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A size that was a lie must not be asked after for ever; and who may not have the blob at all does not get rid of what
// is there of it.
func TestALeftoverOfASizeThatWasALie(t *testing.T) {
	t.Parallel()
	blob, d := randomBlob(1 << 20)
	s := newMemStore()
	stage, _ := s.Stage(d, 1<<20+1000)
	_, _ = stage.WriteAt(blob, 0)
	_ = stage.Close()
	f := New(Config{Store: s})
	denied := permanentError{errors.New("404")}
	if _, err := read(t.Context(), f, d, &origin{name: "a", err: denied}, 0, -1); !errors.Is(err, denied) {
		t.Errorf("%v, want the source's error", err)
	}
	if n := s.stagedBytes(d); n != 1<<20 {
		t.Errorf("%d bytes are left after a refusal", n)
	}
	got, err := read(t.Context(), f, d, &origin{name: "b", blob: blob}, 0, -1)
	f.Close()
	if err != nil || !bytes.Equal(got, blob) || !bytes.Equal(s.holds(d), blob) {
		t.Errorf("%d bytes, %v; %d in the store", len(got), err, len(s.holds(d)))
	}
}
