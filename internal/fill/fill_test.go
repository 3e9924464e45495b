package fill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/store"
)

func TestManyReadersCostOneDownload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(4 << 20)
		o := &origin{name: "a", blob: blob, pace: 10 * time.Millisecond}
		s := newMemStore()
		f := New(Config{Store: s})
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 20 * time.Millisecond)
				got, err := read(t.Context(), f, d, o, 0, -1)
				if err != nil || !bytes.Equal(got, blob) {
					t.Errorf("reader %d: %d bytes, %v", i, len(got), err)
				}
			})
		}
		wg.Wait()
		f.Close()
		if fetches, sent := o.seen(); fetches != 1 || sent != int64(len(blob)) {
			t.Errorf("upstream saw %d GETs and sent %d bytes, want one of %d", fetches, sent, len(blob))
		}
		if !bytes.Equal(s.holds(d), blob) {
			t.Error("the blob is not in the store")
		}
	})
}

func TestFollowersDoNotWaitForTheLeadersEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		o := &origin{name: "a", blob: blob, pace: time.Second} // 32 s in all
		f := New(Config{Store: newMemStore()})
		defer f.Close()
		leader, _, err := f.Join(t.Context(), d, o, store.Extent{End: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer leader.Close()
		time.Sleep(5 * time.Second)
		begin := time.Now()
		follower, led, err := f.Join(t.Context(), d, o, store.Extent{End: -1})
		if err != nil || led {
			t.Fatalf("second Join: leader %t, %v", led, err)
		}
		defer follower.Close()
		first := make([]byte, 1)
		if _, err := io.ReadFull(follower.Range(0, -1), first); err != nil || first[0] != blob[0] {
			t.Fatalf("first byte: %v", err)
		}
		if waited := time.Since(begin); waited > 0 {
			t.Errorf("the follower's first byte came after %v", waited)
		}
	})
}

func TestALeaderThatLeavesTakesNothingWithIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		o := &origin{name: "a", blob: blob, pace: time.Second}
		s := newMemStore()
		f := New(Config{Store: s})
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			time.Sleep(3 * time.Second)
			leave()
		}()
		if _, err := read(ctx, f, d, o, 0, -1); !errors.Is(err, context.Canceled) {
			t.Errorf("the leader that left: %v", err)
		}
		time.Sleep(time.Minute)
		if fetches, _ := o.seen(); !bytes.Equal(s.holds(d), blob) || fetches != 1 {
			t.Errorf("the fill did not finish: %d GETs", fetches)
		}
		f.Close()
	})
}

func TestABrokenDownloadGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]*origin{
		"resets":                   {cut: 300_000, cuts: 4},
		"resets, size not named":   {cut: 300_000, cuts: 4, hideSize: true},
		"resets, ranges ignored":   {cut: 900_000, cuts: 3, ignoreRanges: true},
		"dead at the first byte":   {cut: 0, cuts: 5},
		"a byte before the end":    {cut: 1<<20 - 1, cuts: 1},
		"all there but the ending": {cut: 1 << 20, cuts: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				blob, d := randomBlob(1 << 20)
				o.name, o.blob = "a", blob
				s := newMemStore()
				f := New(Config{Store: s})
				got, err := read(t.Context(), f, d, o, 0, -1)
				if err != nil || !bytes.Equal(got, blob) {
					t.Errorf("read %d bytes, %v", len(got), err)
				}
				f.Close()
				if _, sent := o.seen(); !o.ignoreRanges && sent != int64(len(blob)) {
					t.Errorf("%d bytes left upstream, want %d, each once", sent, len(blob))
				}
				if !bytes.Equal(s.holds(d), blob) {
					t.Error("the blob is not in the store")
				}
			})
		})
	}
}

func TestADeadUpstreamFailsInBoundedTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		o := &origin{name: "a", blob: blob, cut: 0, cuts: 1 << 30}
		f := New(Config{Store: newMemStore()})
		defer f.Close()
		if got, err := read(t.Context(), f, d, o, 0, -1); err == nil || len(got) != 0 {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
		if fetches, _ := o.seen(); fetches > 10 {
			t.Errorf("%d tries", fetches)
		}
	})
}

func TestAFillSurvivesARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		o := &origin{name: "a", blob: blob, pace: time.Second}
		s := newMemStore()
		before := New(Config{Store: s})
		go func() { _, _ = read(t.Context(), before, d, o, 0, -1) }()
		time.Sleep(10500 * time.Millisecond)
		before.Close()
		_, sent := o.seen()
		after := New(Config{Store: s})
		got, err := read(t.Context(), after, d, o, 0, -1)
		after.Close()
		if err != nil || !bytes.Equal(got, blob) {
			t.Errorf("after the restart: %d bytes, %v", len(got), err)
		}
		if _, all := o.seen(); sent == 0 || all > int64(len(blob))+64<<10 {
			t.Errorf("%d bytes left upstream before the restart, %d in all, want about %d", sent, all, len(blob))
		}
	})
}

func TestWrongBytesAreNeverComplete(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 1000, Withheld, Withheld + 1, 1 << 20} {
		for _, bad := range []int{0, size / 2, size - 1} {
			for _, hide := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					blob, d := randomBlob(size)
					wrong := bytes.Clone(blob)
					wrong[bad] ^= 1
					o := &origin{name: "a", blob: wrong, hideSize: hide}
					s := newMemStore()
					f := New(Config{Store: s})
					got, err := read(t.Context(), f, d, o, 0, -1)
					var mismatch *store.DigestError
					if !errors.As(err, &mismatch) || len(got) > max(0, size-Withheld) {
						t.Errorf("size %d, byte %d wrong: %d bytes and %v", size, bad, len(got), err)
					}
					f.Close()
					o.blob = blob
					f = New(Config{Store: s})
					if got, err := read(t.Context(), f, d, o, 0, -1); err != nil || !bytes.Equal(got, blob) {
						t.Errorf("size %d: the next request got %d bytes, %v", size, len(got), err)
					}
					f.Close()
					if !bytes.Equal(s.holds(d), blob) {
						t.Errorf("size %d: the store has %d bytes", size, len(s.holds(d)))
					}
				})
			}
		}
	}
}

func TestRangesOfAFillInProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		wrong := bytes.Clone(blob)
		wrong[10] ^= 1
		for _, tc := range []struct {
			start, end int64
			complete   bool // although the blob turns out wrong
		}{{0, 2, true}, {500_000, 600_000, true}, {1<<20 - 10, 1<<20 - 1, true}, {1<<20 - 10, 1 << 20, false}, {0, 1 << 20, false}, {1 << 19, -1, false}} {
			f := New(Config{Store: newMemStore()})
			got, err := read(t.Context(), f, d, &origin{name: "a", blob: wrong, pace: time.Second}, tc.start, tc.end)
			if (err == nil) != tc.complete {
				t.Errorf("range %d-%d of a wrong blob: %d bytes, %v", tc.start, tc.end, len(got), err)
			}
			f.Close()
			f = New(Config{Store: newMemStore()})
			got, err = read(t.Context(), f, d, &origin{name: "a", blob: blob, pace: time.Second}, tc.start, tc.end)
			want := blob[tc.start:]
			if tc.end >= 0 {
				want = blob[tc.start:tc.end]
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("range %d-%d: %d bytes, %v", tc.start, tc.end, len(got), err)
			}
			f.Close()
		}
	})
}

func TestTheNextWaitersCredentialsAreTried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(100_000)
		denied := errors.New("401")
		f := New(Config{Store: newMemStore()})
		defer f.Close()
		slow := &slowRefusal{origin{name: "bad", err: denied}}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if got, err := read(t.Context(), f, d, slow, 0, -1); !errors.Is(err, denied) || len(got) != 0 {
					t.Errorf("a caller without rights got %d bytes, %v", len(got), err)
				}
			})
		}
		time.Sleep(time.Second)
		good := &origin{name: "good", blob: blob}
		if got, err := read(t.Context(), f, d, good, 0, -1); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("the caller with rights got %d bytes, %v", len(got), err)
		}
		wg.Wait()
		if fetches, _ := slow.seen(); fetches != 1 {
			t.Errorf("the bad credentials were tried %d times, want once in the name of all", fetches)
		}
	})
}

// slowRefusal takes a while to say no, so that others gather behind it.
type slowRefusal struct{ origin }

func (s *slowRefusal) Fetch(ctx context.Context, start, end int64) (*Delivery, error) {
	time.Sleep(5 * time.Second)
	return s.origin.Fetch(ctx, start, end)
}

func TestAFullStoreFailsNoRead(t *testing.T) {
	t.Parallel()
	blob, d := randomBlob(1 << 20)
	t.Run("from the beginning", func(t *testing.T) {
		t.Parallel()
		s := newMemStore()
		s.limit = 1000
		f := New(Config{Store: s})
		defer f.Close()
		if _, err := read(t.Context(), f, d, &origin{name: "a", blob: blob}, 0, -1); !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("Join: %v, want an error that matches ErrNoSpace", err)
		}
	})
	for _, tc := range []struct{ start, end int64 }{{0, -1}, {0, 1 << 20}, {800_000, -1}, {100, 900_000}} {
		t.Run(fmt.Sprintf("in the middle, range %d-%d", tc.start, tc.end), func(t *testing.T) {
			t.Parallel()
			s := newMemStore()
			s.failAt = 500_000
			f := New(Config{Store: s})
			defer f.Close()
			want := blob[tc.start:]
			if tc.end >= 0 {
				want = blob[tc.start:tc.end]
			}
			got, err := read(t.Context(), f, d, &origin{name: "a", blob: blob}, tc.start, tc.end)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			wrong := bytes.Clone(blob)
			wrong[700_000] ^= 1
			if tc.end != 900_000 { // a range without the last byte is not verified
				if got, err := read(t.Context(), f, d, &origin{name: "b", blob: wrong}, tc.start, tc.end); err == nil {
					t.Errorf("wrong bytes past a full disk: %d bytes and no error", len(got))
				}
			}
		})
	}
}
