package fill

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/store/disk"
)

// dripping is a source whose body gives a batch each time it is told to.
type dripping struct {
	size int64
	drop chan []byte
	ctx  context.Context
}

func (*dripping) Key() string    { return "dripping" }
func (*dripping) Origin() string { return "dripping" }

func (d *dripping) Fetch(ctx context.Context, _, _ int64) (*Delivery, error) {
	d.ctx = ctx
	return &Delivery{Body: d, Size: d.size}, nil
}

func (d *dripping) Read(p []byte) (int, error) {
	select {
	case b := <-d.drop:
		return copy(p, b), nil
	case <-d.ctx.Done():
		return 0, context.Cause(d.ctx)
	}
}

func (*dripping) Close() error { return nil }

// follow has n readers of a blob, who have read what there is of it and wait for more.
func follow(t testing.TB, f *Fills, src *dripping, n int, read func(body io.Reader)) (stop func()) {
	t.Helper()
	d := oci.FromBytes([]byte("of no matter"))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range n {
		r, _, err := f.Join(ctx, d, src, store.Extent{End: -1})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer r.Close()
			read(r.Range(0, -1))
		})
	}
	return func() {
		cancel()
		wg.Wait()
		f.Close()
	}
}

// A thousand that wait cost little: what a client costs beyond this is its connection's.
func TestAFollowerIsSmall(t *testing.T) {
	const followers, bound = 1000, 8 << 10
	src := &dripping{size: 1 << 30, drop: make(chan []byte)}
	f := New(Config{Store: &discarding{newMemStore()}})
	used := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := used()
	buffer := make([]byte, 1) // one for all: nothing is ever read
	waiting := make(chan struct{}, followers)
	stop := follow(t, f, src, followers, func(body io.Reader) {
		waiting <- struct{}{}
		_, _ = body.Read(buffer)
	})
	defer stop()
	for range followers {
		<-waiting
	}
	x := f.active[oci.FromBytes([]byte("of no matter"))]
	for n := 0; n < followers; runtime.Gosched() {
		x.mu.Lock()
		n = len(x.demands)
		x.mu.Unlock()
	}
	each := (used() - before) / followers
	t.Logf("%d bytes a follower", each)
	if each > bound {
		t.Errorf("a follower takes %d bytes, want no more than %d", each, bound)
	}
}

// BenchmarkWake is what a batch of 128 KiB costs each of its readers, from the write to the read.
func BenchmarkWake(b *testing.B) {
	for _, readers := range []int{1, 32, 1000} {
		b.Run(fmt.Sprint(readers), func(b *testing.B) {
			src := &dripping{size: 1 << 40, drop: make(chan []byte)}
			f := New(Config{Store: &discarding{newMemStore()}, Connections: 1})
			var read sync.WaitGroup
			stop := follow(b, f, src, readers, func(body io.Reader) {
				buffer := make([]byte, batchSize)
				for {
					n, err := io.ReadFull(body, buffer)
					if n > 0 && err == nil {
						read.Done()
					}
					if err != nil {
						return
					}
				}
			})
			defer stop()
			batch := make([]byte, batchSize)
			next := func() {
				read.Wait()
				read.Add(readers)
				src.drop <- batch
			}
			b.ResetTimer()
			for range b.N {
				next()
			}
			read.Wait()
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*readers), "ns/reader")
		})
	}
}

// discarding is a store whose stages keep nothing, so that their cost is not what is measured.
type discarding struct{ *memStore }

func (s *discarding) Stage(oci.Digest, int64) (store.Stage, error) { return discarded{}, nil }

type discarded struct{}

func (discarded) WriteAt(p []byte, _ int64) (int, error)    { return len(p), nil }
func (discarded) ReadAt(p []byte, _ int64) (int, error)     { return len(p), nil }
func (discarded) Staged() []store.Extent                    { return nil }
func (discarded) Commit(context.Context, store.Proof) error { return nil }
func (discarded) Close() error                              { return nil }
func (discarded) Discard() error                            { return nil }

// BenchmarkFill is a blob's whole way from a source into the store on a disk, verified and committed, with nobody but its
// client's reader: what hashing, writing and reading back cost beyond the network.
func BenchmarkFill(b *testing.B) {
	const size = 64 << 20
	blob, d := randomBlob(size)
	s, err := disk.Open(disk.Config{Directory: b.TempDir(), MaxSize: 8 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	buffer := make([]byte, 128<<10)
	b.SetBytes(size)
	b.ResetTimer()
	for range b.N {
		f := New(Config{Store: s, Connections: 1})
		r, _, err := f.Join(b.Context(), d, &inMemory{blob}, store.Extent{End: -1})
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r.Range(0, -1)}, buffer); err != nil || n != size {
			b.Fatalf("%d bytes, %v", n, err)
		}
		_ = r.Close()
		f.Close()
		b.StopTimer()
		if err := s.Remove(d); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// inMemory is a source that is as fast as memory.
type inMemory struct{ blob []byte }

func (*inMemory) Key() string    { return "memory" }
func (*inMemory) Origin() string { return "memory" }

func (m *inMemory) Fetch(_ context.Context, start, _ int64) (*Delivery, error) {
	return &Delivery{Body: &memoryBody{m.blob[start:]}, Start: start, Size: int64(len(m.blob)), Ranges: true}, nil
}

// memoryBody reads as TLS does, 16 KiB at a time.
type memoryBody struct{ rest []byte }

func (b *memoryBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 16<<10)], b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (*memoryBody) Close() error { return nil }
