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

// What may come instead of the rest, and what becomes of the blob.
func TestOddAnswersToTheQuestionForTheRest(t *testing.T) {
	t.Parallel()
	// The first answer breaks off at 400,000; the second is odd, the third honest.
	for name, odd := range map[string]func(start int64, d *Delivery, b *body) error{
		"the whole": func(_ int64, d *Delivery, b *body) error {
			d.Start, b.rest = 0, b.origin.blob
			return nil
		},
		"a page, without a size": func(_ int64, d *Delivery, b *body) error {
			d.Start, d.Size, b.rest = 0, -1, []byte("<html>Access denied</html>")
			return nil
		},
		"a page": func(_ int64, d *Delivery, b *body) error {
			b.rest = []byte("<html>Access denied</html>")
			d.Start, d.Size = 0, int64(len(b.rest))
			return nil
		},
		"another size":                func(_ int64, d *Delivery, _ *body) error { d.Size++; return nil },
		"bytes of further on":         func(start int64, d *Delivery, _ *body) error { d.Start = start + 1; return nil },
		"nothing":                     func(_ int64, _ *Delivery, b *body) error { b.rest = nil; return nil },
		"less, as if that were":       func(_ int64, _ *Delivery, b *body) error { b.rest = b.rest[:300_000]; return nil },
		"a stall":                     func(_ int64, _ *Delivery, b *body) error { b.stall = 500_000; return nil },
		"trouble of the moment":       func(int64, *Delivery, *body) error { return errors.New("502") },
		"trouble and when to be back": func(int64, *Delivery, *body) error { return laterError{10 * time.Second} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				blob, d := randomBlob(1 << 20)
				o := &origin{name: "a", blob: blob}
				var when []time.Time
				o.answer = func(n int, start int64, d *Delivery, b *body) error {
					when = append(when, time.Now())
					switch n {
					case 1:
						b.rest, b.end = b.rest[:400_000], errors.New("reset")
					case 2:
						return odd(start, d, b)
					}
					return nil
				}
				s := newMemStore()
				f := New(Config{Store: s})
				got, err := read(t.Context(), f, d, o, 0, -1)
				f.Close()
				if err != nil || !bytes.Equal(got, blob) || !bytes.Equal(s.holds(d), blob) {
					t.Errorf("read %d bytes, %v; %d in the store", len(got), err, len(s.holds(d)))
				}
				for i, start := range o.fetches[1:] {
					if start < 400_000 {
						t.Errorf("question %d is for byte %d, which is there", i+2, start)
					}
				}
				if later, ok := errors.AsType[laterError](odd(0, &Delivery{}, &body{origin: o, rest: blob})); ok && when[2].Sub(when[1]) < later.after {
					t.Errorf("asked again after %v, told to wait %v", when[2].Sub(when[1]), later.after)
				}
			})
		})
	}
}

type laterError struct{ after time.Duration }

func (laterError) Error() string               { return "503" }
func (e laterError) RetryAfter() time.Duration { return e.after }

// Upstream breaks off exactly at the end of a blob whose size it has not said: there is nothing more to be had, and
// nothing missing.
func TestABreakAtTheEndOfAnUnknownSize(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(300_000)
		o := &origin{name: "a", blob: blob, hideSize: true, cut: len(blob), cuts: 1}
		s := newMemStore()
		f := New(Config{Store: s})
		got, err := read(t.Context(), f, d, o, 0, -1)
		f.Close()
		if err != nil || !bytes.Equal(got, blob) || !bytes.Equal(s.holds(d), blob) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

// A part of a blob whose size is not known says nothing about where the blob ends.
func TestAPartOfAnUnknownSize(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		o := &origin{name: "a", blob: blob, hideSize: true}
		s := newMemStore()
		f := New(Config{Store: s})
		if got, err := read(t.Context(), f, d, o, 100_000, 200_000); err != nil || !bytes.Equal(got, blob[100_000:200_000]) {
			t.Errorf("the part: %d bytes, %v", len(got), err)
		}
		if got, err := read(t.Context(), f, d, o, 0, -1); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("the whole: %d bytes, %v", len(got), err)
		}
		f.Close()
		if !bytes.Equal(s.holds(d), blob) {
			t.Error("the blob is not in the store")
		}
	})
}

// A connection that trickles is as good as none.
func TestATrickleIsTakenUpElsewhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		o := &origin{name: "a", blob: blob}
		o.answer = func(n int, _ int64, d *Delivery, b *body) error {
			if n == 1 {
				d.Body = &trickle{body: b}
			}
			return nil
		}
		f := New(Config{Store: newMemStore()})
		begin := time.Now()
		got, err := read(t.Context(), f, d, o, 0, -1)
		f.Close()
		if err != nil || !bytes.Equal(got, blob) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if took := time.Since(begin); took > 2*patience {
			t.Errorf("took %v", took)
		}
		if _, sent := o.seen(); sent != int64(len(blob)) {
			t.Errorf("%d bytes left upstream, want %d", sent, len(blob))
		}
	})
}

// trickle delivers a byte a second.
type trickle struct{ *body }

func (b *trickle) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		return b.body.Read(p[:1])
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
}

// A registry that restarts breaks all connections of a fill at once, and refuses new ones for a while: that is one
// failure, not as many as there were connections.
func TestAllConnectionsBreakAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(16 << 20)
		o := &origin{name: "a", blob: blob, pace: 12 * time.Millisecond}
		begin := time.Now()
		down := func() bool { s := time.Since(begin); return s > 2*time.Second && s < 3*time.Second }
		o.answer = func(_ int, _ int64, d *Delivery, b *body) error {
			if down() {
				return errors.New("connection refused")
			}
			d.Body = &mortal{b, down}
			return nil
		}
		s := newMemStore()
		f := New(Config{Store: s})
		got, err := read(t.Context(), f, d, o, 0, -1)
		f.Close()
		if err != nil || !bytes.Equal(got, blob) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if fetches, sent := o.seen(); sent > int64(len(blob))+16*(32<<10) || fetches > 40 {
			t.Errorf("%d questions, %d bytes left upstream, want %d", fetches, sent, len(blob))
		}
	})
}

// mortal breaks while dead.
type mortal struct {
	*body
	dead func() bool
}

func (b *mortal) Read(p []byte) (int, error) {
	if b.dead() {
		return 0, errors.New("connection reset by peer")
	}
	return b.body.Read(p)
}

// Many fills in trouble at once do not add to the trouble.
func TestNoRetryStorm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const fills = 100
		f := New(Config{Store: newMemStore()})
		begin := time.Now()
		var origins []*origin
		var wg sync.WaitGroup
		for i := range fills {
			blob, d := randomBlob(400_000 + i)
			o := &origin{name: "a", blob: blob, pace: 100 * time.Millisecond}
			o.answer = func(_ int, _ int64, d *Delivery, b *body) error {
				if time.Since(begin) > 800*time.Millisecond {
					return errors.New("503")
				}
				d.Body = &mortal{b, func() bool { return time.Since(begin) > 800*time.Millisecond }}
				return nil
			}
			origins = append(origins, o)
			wg.Go(func() {
				if _, err := read(t.Context(), f, d, o, 0, -1); err == nil {
					t.Error("a blob that breaks off for good was read to its end")
				}
			})
		}
		wg.Wait()
		took := time.Since(begin)
		f.Close()
		all := 0
		for _, o := range origins {
			n, _ := o.seen()
			all += n
		}
		// Each is asked once, and once more when it breaks; further tries come from one allowance.
		if most := 2*fills + 32 + int(took/time.Second) + 1; all > most {
			t.Errorf("%d questions within %v, want at most %d", all, took, most)
		}
	})
}

// A source that says it delivers parts, and then does not, is read to its end over the connection that is there.
func TestRangesThatWereOnlyPromised(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(16 << 20)
		o := &origin{name: "a", blob: blob, pace: 12 * time.Millisecond}
		o.answer = func(n int, _ int64, d *Delivery, b *body) error {
			d.Start, b.rest = 0, o.blob
			return nil
		}
		s := newMemStore()
		f := New(Config{Store: s})
		got, err := read(t.Context(), f, d, o, 0, -1)
		f.Close()
		if err != nil || !bytes.Equal(got, blob) || !bytes.Equal(s.holds(d), blob) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if fetches, sent := o.seen(); fetches != 2 || sent > int64(len(blob))+64<<10 {
			t.Errorf("%d questions, %d bytes left upstream, want 2 and %d", fetches, sent, len(blob))
		}
	})
}

// late answers all questions but the first so much later.
type late struct {
	*origin
	after time.Duration
}

func (l late) Fetch(ctx context.Context, start, end int64) (*Delivery, error) {
	if fetches, _ := l.seen(); fetches > 0 {
		select {
		case <-time.After(l.after):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return l.origin.Fetch(ctx, start, end)
}

// However late the first answer to the question for a part is, and whatever it turns out to be, nothing is asked for
// twice, and what it would have brought is not waited for.
func TestAPartThatComesLate(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		after   time.Duration
		ignored bool
		fetches int // that are answered; 0 means any number
	}{
		"soon, the whole":            {time.Millisecond, true, 2},
		"when it is due, the whole":  {1500 * time.Millisecond, true, 2},
		"when it is due, the part":   {1500 * time.Millisecond, false, 0},
		"long after that, the whole": {time.Minute, true, 1},
		"long after that, the part":  {time.Minute, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				blob, d := randomBlob(16 << 20)
				o := &origin{name: "a", blob: blob, pace: 12 * time.Millisecond}
				if tc.ignored {
					o.answer = func(_ int, _ int64, d *Delivery, b *body) error {
						d.Start, d.Ranges, b.rest = 0, true, o.blob
						return nil
					}
				}
				f := New(Config{Store: newMemStore()})
				began := time.Now()
				got, err := read(t.Context(), f, d, late{o, tc.after}, 0, -1)
				took := time.Since(began)
				f.Close()
				if err != nil || !bytes.Equal(got, blob) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
				fetches, sent := o.seen()
				if tc.fetches > 0 && fetches != tc.fetches || sent > int64(len(blob))+8*(32<<10) {
					t.Errorf("%d answers, %d bytes left upstream, want %d and %d", fetches, sent, tc.fetches, len(blob))
				}
				if alone := 512 * 12 * time.Millisecond; took > alone+takerPatience+time.Second {
					t.Errorf("took %v, over one connection alone it is %v", took, alone)
				}
			})
		})
	}
}

func TestParallelCanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, _ := randomBlob(16 << 20)
		o := &origin{name: "no", blob: blob, pace: 12 * time.Millisecond}
		pull(t, o, Config{ConnectionsTo: func(src Source) int { return map[string]int{"no": 1}[src.Key()] }})
		if fetches, _ := o.seen(); fetches != 1 {
			t.Errorf("%d questions, want 1", fetches)
		}
	})
}

// Large blobs leave connections to others, and give them back.
func TestSpareConnectionsAreShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := New(Config{Store: newMemStore(), SpareConnections: 3})
		var wg sync.WaitGroup
		gauge := &gauge{}
		for i := range 4 {
			blob, d := randomBlob(8<<20 + i)
			o := &origin{name: "a", blob: blob, pace: 12 * time.Millisecond}
			o.answer = func(_ int, _ int64, d *Delivery, b *body) error {
				d.Body = gauge.watch(b)
				return nil
			}
			wg.Go(func() {
				if got, err := read(t.Context(), f, d, o, 0, -1); err != nil || !bytes.Equal(got, blob) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
		wg.Wait()
		f.Close()
		if gauge.peak != 4+3 || len(f.spare) != 0 {
			t.Errorf("%d connections at most, want one for each of 4 blobs and 3 to spare; %d are still taken", gauge.peak, len(f.spare))
		}
	})
}

// gauge counts what is open.
type gauge struct {
	mu         sync.Mutex
	open, peak int
}

func (g *gauge) watch(b io.ReadCloser) io.ReadCloser {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open++
	g.peak = max(g.peak, g.open)
	return &gauged{b, sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.open--
	})}
}

type gauged struct {
	io.ReadCloser
	closed func()
}

func (g *gauged) Close() error { g.closed(); return g.ReadCloser.Close() }

// Whatever breaks and whoever asks for what part, everybody gets the right bytes and upstream sends each about once.
func TestReadersOfAllKindsAndAFlakyOrigin(t *testing.T) {
	t.Parallel()
	for seed := range 2 {
		synctest.Test(t, func(t *testing.T) {
			blob, d := randomBlob(4<<20 + seed)
			o := &origin{name: "a", blob: blob, pace: 3 * time.Millisecond, cut: 700_000 + 31*seed, cuts: 40}
			s := newMemStore()
			f := New(Config{Store: s, Retries: 20})
			var wg sync.WaitGroup
			for i := range 18 {
				start := int64(i*7919*(seed+3)) % int64(len(blob))
				part := []store.Extent{{Start: 0, End: -1}, {Start: start, End: -1}, {Start: start, End: min(start+100_000, int64(len(blob)))}}[i%3]
				wg.Go(func() {
					time.Sleep(time.Duration(i*i) * time.Millisecond)
					want := blob[part.Start:]
					if part.End >= 0 {
						want = blob[part.Start:part.End]
					}
					if got, err := read(t.Context(), f, d, o, part.Start, part.End); err != nil || !bytes.Equal(got, want) {
						t.Errorf("part %v: %d bytes, %v", part, len(got), err)
					}
				})
			}
			wg.Wait()
			f.Close()
			if _, sent := o.seen(); sent > int64(len(blob))+20*(32<<10) {
				t.Errorf("%d bytes left upstream, want about %d", sent, len(blob))
			}
			if !bytes.Equal(s.holds(d), blob) || oci.FromBytes(s.holds(d)) != d {
				t.Error("the blob is not in the store")
			}
		})
	}
}
