package fill

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// readSome reads n bytes of the whole blob and leaves.
func readSome(t *testing.T, f *Fills, d oci.Digest, src Source, n int64) {
	t.Helper()
	r, _, err := f.Join(t.Context(), d, src, store.Extent{End: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, r.Range(0, -1), n); err != nil {
		t.Error(err)
	}
	_ = r.Close()
}

func TestTheLastReaderLeaves(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		share float64
		left  int64
		read  int64 // before it leaves
		ends  bool  // in the store
	}{
		"every fill finishes unless told otherwise": {0, 0, 1, true},
		"a share is there":                          {0.5, 1, 5 << 20, true},
		"no share is there":                         {0.5, 1, 1 << 20, false},
		"little is left":                            {1, 2 << 20, 7 << 20, true},
		"nothing but the whole is worth it":         {1, 1, 7 << 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				blob, d := randomBlob(8 << 20)
				o := &origin{name: "a", blob: blob, pace: 10 * time.Millisecond}
				s := newMemStore()
				reg := prometheus.NewRegistry()
				f := New(Config{Store: s, FinishShare: tc.share, FinishLeft: tc.left, Connections: 1, Registerer: reg})
				readSome(t, f, d, o, tc.read)
				time.Sleep(time.Minute)
				_, before := o.seen()
				if ends := s.holds(d) != nil; ends != tc.ends || f.InProgress() != 0 {
					t.Errorf("in the store: %t, want %t; %d fills in progress", ends, tc.ends, f.InProgress())
				}
				if !tc.ends && before > tc.read+1<<20 {
					t.Errorf("%d bytes left upstream for a reader that left after %d", before, tc.read)
				}
				got, err := read(t.Context(), f, d, o, 0, -1)
				if err != nil || !bytes.Equal(got, blob) {
					t.Errorf("the next reader: %d bytes, %v", len(got), err)
				}
				f.Close()
				if _, sent := o.seen(); sent > int64(len(blob))+64<<10 {
					t.Errorf("%d bytes left upstream, want %d: what was received is not asked for again", sent, len(blob))
				}
				if n := s.misused.Load(); n != 0 {
					t.Errorf("the stage was used %d times after its end", n)
				}
				stops := count(f.metrics.ends.WithLabelValues(string(stopped)))
				if (stops == 1) == tc.ends {
					t.Errorf("%v fills were counted as stopped", stops)
				}
			})
		})
	}
}

// A client that leaves before the first byte stops a fill that is not to be finished, and takes nobody with it.
func TestNobodyWaitsForTheFirstByte(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(100_000)
		slow := &origin{name: "a", blob: blob}
		hangs := true
		slow.answer = func(int, int64, *Delivery, *body) error { return nil }
		src := sourceFunc(func(ctx context.Context, start, end int64) (*Delivery, error) {
			if hangs {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}
			return slow.Fetch(ctx, start, end)
		})
		f := New(Config{Store: newMemStore(), FinishShare: 0.5})
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, _, err := f.Join(ctx, d, src, store.Extent{End: -1}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Join: %v", err)
		}
		synctest.Wait()
		if n := f.InProgress(); n != 0 {
			t.Errorf("%d fills that nobody waits for", n)
		}
		hangs = false
		if got, err := read(t.Context(), f, d, src, 0, -1); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("the next: %d bytes, %v", len(got), err)
		}
		f.Close()
	})
}

// count is the value of a counter.
func count(c prometheus.Counter) float64 {
	var m dto.Metric
	_ = c.Write(&m)
	return m.GetCounter().GetValue()
}

type sourceFunc func(ctx context.Context, start, end int64) (*Delivery, error)

func (sourceFunc) Key() string    { return "func" }
func (sourceFunc) Origin() string { return "func" }
func (s sourceFunc) Fetch(ctx context.Context, start, end int64) (*Delivery, error) {
	return s(ctx, start, end)
}

// A client that reads nothing keeps no wrong bytes on the disk, and no next one waiting.
func TestAStalledReaderOfWrongBytesIsInNobodysWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		wrong := bytes.Clone(blob)
		wrong[7] ^= 1
		s := newMemStore()
		f := New(Config{Store: s})
		stalled, _, err := f.Join(t.Context(), d, &origin{name: "a", blob: wrong}, store.Extent{End: -1})
		if err != nil {
			t.Fatal(err)
		}
		body := stalled.Range(0, -1)
		synctest.Wait() // the fill has found out
		good := &origin{name: "a", blob: blob}
		if got, err := read(t.Context(), f, d, good, 0, -1); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("the next client got %d bytes, %v", len(got), err)
		}
		if n, err := io.Copy(io.Discard, body); n != 0 || err == nil || err == io.EOF {
			t.Errorf("the stalled one reads %d bytes more, %v", n, err)
		}
		_ = stalled.Close()
		f.Close()
		if !bytes.Equal(s.holds(d), blob) || s.misused.Load() != 0 {
			t.Errorf("in the store: %d bytes; %d uses of a closed stage", len(s.holds(d)), s.misused.Load())
		}
		if n := count(f.metrics.restarts); n != 1 {
			t.Errorf("%v restarts after a mismatch were counted, want 1", n)
		}
	})
}

// What cannot be committed is shared by those who come while it is read.
func TestWhatCannotBeKeptIsJoined(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		o := &origin{name: "a", blob: blob}
		s := newMemStore()
		s.failCommit.Store(true)
		f := New(Config{Store: s})
		first, leads, err := f.Join(t.Context(), d, o, store.Extent{End: -1})
		if err != nil || !leads {
			t.Fatalf("Join: leads %t, %v", leads, err)
		}
		body := first.Range(0, -1)
		synctest.Wait() // the commit has failed
		if got, err := read(t.Context(), f, d, o, 0, -1); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("one that comes later got %d bytes, %v", len(got), err)
		}
		if got, err := drain(body, first.Size()); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("the first got %d bytes, %v", len(got), err)
		}
		_ = first.Close()
		synctest.Wait()
		if fetches, _ := o.seen(); fetches != 1 || f.InProgress() != 0 {
			t.Errorf("%d downloads, want 1; %d fills in progress", fetches, f.InProgress())
		}
		s.failCommit.Store(false)
		if got, err := read(t.Context(), f, d, o, 0, -1); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("once it can be kept: %d bytes, %v", len(got), err)
		}
		f.Close()
		if !bytes.Equal(s.holds(d), blob) || s.misused.Load() != 0 {
			t.Errorf("in the store: %d bytes; %d uses of a closed stage", len(s.holds(d)), s.misused.Load())
		}
	})
}

// When the disk fills up in the middle, those who follow go on by themselves, each its own way, however slow, and those
// who come are told at once.
func TestAFullDiskInTheMiddle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(2 << 20)
		s := newMemStore()
		s.failAt = 1 << 20
		f := New(Config{Store: s})
		var readers []*Reader
		var bodies []io.Reader
		for range 3 {
			r, _, err := f.Join(t.Context(), d, &origin{name: "a", blob: blob}, store.Extent{End: -1})
			if err != nil {
				t.Fatal(err)
			}
			readers, bodies = append(readers, r), append(bodies, r.Range(0, -1))
		}
		if _, err := io.CopyN(io.Discard, bodies[1], 100_000); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if _, _, err := f.Join(t.Context(), d, &origin{name: "a", blob: blob}, store.Extent{End: -1}); !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("one that comes now: %v, want ErrNoSpace", err)
		}
		if got, err := drain(bodies[0], 2<<20); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("one that reads on at once: %d bytes, %v", len(got), err)
		}
		time.Sleep(2 * linger) // the file is given up for others
		for i, want := range [][]byte{blob[100_000:], blob} {
			if got, err := drain(bodies[i+1], 2<<20); err != nil || !bytes.Equal(got, want) {
				t.Errorf("one that reads on much later: %d bytes, %v, want %d", len(got), err, len(want))
			}
		}
		s.failAt = 0
		if got, err := read(t.Context(), f, d, &origin{name: "a", blob: blob}, 0, -1); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("when there is space again: %d bytes, %v", len(got), err)
		}
		for _, r := range readers {
			_ = r.Close()
		}
		f.Close()
		if !bytes.Equal(s.holds(d), blob) || s.misused.Load() != 0 {
			t.Errorf("in the store: %d bytes; %d uses of a closed stage", len(s.holds(d)), s.misused.Load())
		}
		if n := count(f.metrics.passages.WithLabelValues(string(NoSpace))); n != 3 {
			t.Errorf("%v passages for want of space were counted, want 3", n)
		}
	})
}

func TestAFileThatCannotBeReadFailsNoReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		o := &origin{name: "a", blob: blob, pace: time.Second}
		s := newMemStore()
		f := New(Config{Store: s})
		time.AfterFunc(10*time.Second, func() { s.failRead.Store(true) })
		for _, part := range []store.Extent{{End: -1}, {Start: 500_000, End: 1 << 20}} {
			want := blob[part.Start:]
			if got, err := read(t.Context(), f, d, o, part.Start, part.End); err != nil || !bytes.Equal(got, want) {
				t.Errorf("range %v: %d bytes, %v", part, len(got), err)
			}
			synctest.Wait()
		}
		f.Close()
		if n := s.stagedBytes(d); n != 0 {
			t.Errorf("%d bytes that cannot be read are kept for the next fill", n)
		}
	})
}

func TestNoFillStartsAfterTheEnd(t *testing.T) {
	t.Parallel()
	blob, d := randomBlob(1000)
	f := New(Config{Store: newMemStore()})
	f.Close()
	if _, _, err := f.Join(t.Context(), d, &origin{name: "a", blob: blob}, store.Extent{End: -1}); !errors.Is(err, ErrDraining) {
		t.Errorf("Join: %v, want ErrDraining", err)
	}
}

// What a part of the code waits for must not be the death of it: a blob of which only a part was asked for is completed
// for one who wants to be sure of it.
func TestAwaitTakesTheWhole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(8 << 20)
		f := New(Config{Store: newMemStore()})
		defer f.Close()
		r, _, err := f.Join(t.Context(), d, &origin{name: "a", blob: blob}, store.Extent{Start: 10, End: 20})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := r.Await(); err != nil || !r.Verified() {
			t.Errorf("Await: %v, verified %t", err, r.Verified())
		}
	})
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		reg := prometheus.NewPedanticRegistry()
		f := New(Config{Store: newMemStore(), Registerer: reg})
		again := New(Config{Store: newMemStore(), Registerer: reg}) // two sets count together
		for _, f := range []*Fills{f, again} {
			if _, err := read(t.Context(), f, d, &origin{name: "a", blob: blob, cut: 300_000, cuts: 1}, 0, -1); err != nil {
				t.Error(err)
			}
			f.Close()
		}
		for name, tc := range map[string]struct{ got, want float64 }{
			"started": {count(f.metrics.started), 2}, "received": {count(again.metrics.received), 2 << 20},
			"resumes": {count(f.metrics.resumes), 2}, "committed": {count(f.metrics.ends.WithLabelValues("committed")), 2},
		} {
			if tc.got != tc.want {
				t.Errorf("%s = %v, want %v", name, tc.got, tc.want)
			}
		}
		if families, err := reg.Gather(); err != nil || len(families) != 6 {
			t.Errorf("%d metrics, %v", len(families), err)
		}
	})
}
