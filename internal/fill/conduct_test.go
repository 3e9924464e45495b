package fill

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// pull reads the whole blob through a new set of fills and returns how long that took.
func pull(t *testing.T, o *origin, cfg Config) time.Duration {
	t.Helper()
	d := oci.FromBytes(o.blob)
	s := newMemStore()
	cfg.Store = s
	f := New(cfg)
	begin := time.Now()
	got, err := read(t.Context(), f, d, o, 0, -1)
	took := time.Since(begin)
	if err != nil || !bytes.Equal(got, o.blob) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	f.Close()
	if !bytes.Equal(s.holds(d), o.blob) {
		t.Error("the blob is not in the store")
	}
	return took
}

func TestAnOriginCappedPerConnectionIsAskedOverSeveral(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, _ := randomBlob(16 << 20)
		slow := func() *origin { return &origin{name: "a", blob: blob, pace: 12 * time.Millisecond} } // 2.7 MB/s each
		alone := pull(t, slow(), Config{Connections: 1})
		o := slow()
		together := pull(t, o, Config{})
		if 3*together > alone {
			t.Errorf("over one connection %v, over several %v, want a third of it", alone, together)
		}
		if _, sent := o.seen(); sent > int64(len(blob))+8*(32<<10) {
			t.Errorf("%d bytes left upstream, want %d, each once", sent, len(blob))
		}
		if peak, at := o.connections(4); peak < 4 || at > 2*time.Second {
			t.Errorf("%d connections at most, four of them after %v", peak, at)
		}
	})
}

func TestAFastOriginSeesOneConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, _ := randomBlob(32 << 20)
		o := &origin{name: "a", blob: blob, pace: 200 * time.Microsecond} // 160 MB/s
		pull(t, o, Config{})
		if fetches, _ := o.seen(); fetches != 1 {
			t.Errorf("%d GETs, want 1", fetches)
		}
	})
}

func TestASharedBottleneckIsNotAskedHarder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, _ := randomBlob(32 << 20)
		o := &origin{name: "a", blob: blob, pace: 4 * time.Millisecond, shared: make(chan struct{}, 1)}
		pull(t, o, Config{})
		if peak, _ := o.connections(1); peak > 2 {
			t.Errorf("%d connections to an origin that is no faster for it", peak)
		}
	})
}

func TestPartsOfAColdBlobCostOnlyThoseParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(8 << 20)
		o := &origin{name: "a", blob: blob, pace: time.Millisecond}
		s := newMemStore()
		f := New(Config{Store: s})
		for _, part := range []store.Extent{{Start: 0, End: 2}, {Start: 5 << 20, End: 5<<20 + 100_000}, {Start: 1 << 20, End: 1<<20 + 1}} {
			got, err := read(t.Context(), f, d, o, part.Start, part.End)
			if err != nil || !bytes.Equal(got, blob[part.Start:part.End]) {
				t.Errorf("part %v: %d bytes, %v", part, len(got), err)
			}
			synctest.Wait()
		}
		if _, sent := o.seen(); sent != 2+100_000+1 {
			t.Errorf("%d bytes left upstream, want those that were asked for", sent)
		}
		if got, err := read(t.Context(), f, d, o, 0, -1); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("then the whole: %d bytes, %v", len(got), err)
		}
		f.Close()
		if _, sent := o.seen(); sent > int64(len(blob))+32<<10 {
			t.Errorf("%d bytes left upstream in all, want about %d", sent, len(blob))
		}
		if !bytes.Equal(s.holds(d), blob) {
			t.Error("the blob is not in the store")
		}
	})
}

func TestABlobReadInPartsIsCompletedAfterAShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(8 << 20)
		s := newMemStore()
		f := New(Config{Store: s, Share: 0.5})
		o := &origin{name: "a", blob: blob}
		if _, err := read(t.Context(), f, d, o, 0, 5<<20); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if !bytes.Equal(s.holds(d), blob) {
			t.Error("more than half was read and the blob is not in the store")
		}
		f.Close()
	})
}

func TestARangeFarAheadDoesNotWaitForTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(32 << 20)
		o := &origin{name: "a", blob: blob, pace: 20 * time.Millisecond} // 20 s
		f := New(Config{Store: newMemStore(), Connections: 1})
		whole := make(chan error, 1)
		go func() {
			got, err := read(t.Context(), f, d, o, 0, -1)
			if err == nil && !bytes.Equal(got, blob) {
				err = io.ErrUnexpectedEOF
			}
			whole <- err
		}()
		time.Sleep(time.Second)
		begin := time.Now()
		got, err := read(t.Context(), f, d, o, 28<<20, 29<<20)
		if err != nil || !bytes.Equal(got, blob[28<<20:29<<20]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("a range far ahead took %v", took)
		}
		if err := <-whole; err != nil {
			t.Errorf("the whole: %v", err)
		}
		f.Close()
		if _, sent := o.seen(); sent > int64(len(blob))+256<<10 {
			t.Errorf("%d bytes left upstream, want about %d", sent, len(blob))
		}
	})
}

func TestACappedOriginThatAlsoResets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, _ := randomBlob(32 << 20)
		o := &origin{name: "a", blob: blob, pace: 4 * time.Millisecond, cut: 3 << 20, cuts: 12}
		pull(t, o, Config{})
		if _, sent := o.seen(); sent > int64(len(blob))+1<<20 {
			t.Errorf("%d bytes left upstream, want about %d", sent, len(blob))
		}
	})
}

func TestNobodyWantsTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(8 << 20)
		o := &origin{name: "a", blob: blob, pace: time.Millisecond}
		f := New(Config{Store: newMemStore()})
		ctx, leave := context.WithCancel(t.Context())
		r, _, err := f.Join(ctx, d, o, store.Extent{Start: 100, End: 200})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r.Range(100, 200)); err != nil {
			t.Error(err)
		}
		leave()
		_ = r.Close()
		synctest.Wait()
		if n := f.InProgress(); n != 0 {
			t.Errorf("%d fills in progress that nobody reads", n)
		}
		f.Close()
	})
}
