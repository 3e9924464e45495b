package registry

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/store"
)

// counted is a body that takes note of where the large reads from it begin.
type counted struct {
	rest   int64
	at     int64
	begins []int64
	short  int64 // where a read gives less than it might; 0 is nowhere
}

func (c *counted) Read(p []byte) (int, error) {
	if c.rest == 0 {
		return 0, io.EOF
	}
	if len(p) == largeBuffer {
		c.begins = append(c.begins, c.at)
	}
	n := min(int64(len(p)), c.rest)
	if c.at <= c.short && c.short < c.at+n {
		n = max(1, c.short-c.at)
	}
	c.rest -= n
	c.at += n
	return int(n), nil
}

// The store reads and checks whole chunks: a read that begins within one costs another.
func TestLargeReadsBeginWithAChunk(t *testing.T) {
	t.Parallel()
	const size = 64<<20 + 5
	body := &counted{rest: size, short: 20<<20 + 50_001}
	if err := send(io.Discard, httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), body); err != nil {
		t.Fatal(err)
	}
	if body.at != size || len(body.begins) == 0 {
		t.Fatalf("%d bytes sent, %d large reads; want %d and many", body.at, len(body.begins), size)
	}
	if last := body.begins[len(body.begins)-1]; last < 60<<20 {
		t.Errorf("no large read after byte %d, want them after the short one at %d too", last, body.short)
	}
	for _, at := range body.begins {
		if at%store.ChunkSize != 0 {
			t.Errorf("a large read begins at byte %d, within a chunk", at)
		}
	}
}

func TestTinyBodiesAreSentWhole(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 2 << 10, smallBuffer, largeBuffer + 1} {
		want := bytes.Repeat([]byte{7}, size)
		w := httptest.NewRecorder()
		if err := send(w, w, httptest.NewRequest(http.MethodGet, "/", nil), bytes.NewReader(want)); err != nil || !bytes.Equal(w.Body.Bytes(), want) {
			t.Errorf("%d bytes: %d sent, %v", size, w.Body.Len(), err)
		}
	}
}

// held is a body that gives a chunk of the store, and after it waits with the buffer that it is to fill.
type held struct {
	given   int
	asked   chan<- int // gets the size of that buffer
	proceed <-chan struct{}
}

func (h *held) Read(p []byte) (int, error) {
	if h.given < store.ChunkSize {
		h.given += len(p)
		return len(p), nil
	}
	h.asked <- len(p)
	<-h.proceed
	return 0, io.EOF
}

// However many responses are fast, only so many have a large buffer at a time; what one gives back another takes.
func TestLargeBuffersAreBounded(t *testing.T) { // not parallel: it takes all there are
	for range 2 {
		synctest.Test(t, largeBuffersAreBounded)
	}
	if got := larges.Load(); got != 0 {
		t.Errorf("%d large buffers are in use at the end, want 0", got)
	}
}

func largeBuffersAreBounded(t *testing.T) {
	limit := largePerCore * runtime.GOMAXPROCS(0)
	asked, proceed := make(chan int), make(chan struct{})
	var all sync.WaitGroup
	for range limit + 3 {
		all.Go(func() {
			if err := send(io.Discard, httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), &held{asked: asked, proceed: proceed}); err != nil {
				t.Error(err)
			}
		})
	}
	large := 0
	for range limit + 3 {
		if <-asked == largeBuffer {
			large++
		}
	}
	close(proceed)
	all.Wait()
	if large != limit {
		t.Errorf("%d of %d responses have a large buffer, want %d", large, limit+3, limit)
	}
}

// paced is a client that is slow with one write, the one that begins at the byte at slowAt, and takes note of the sizes
// of all.
type paced struct {
	slowAt, at int64
	sizes      map[int64]int // by where they begin
}

func (c *paced) Write(p []byte) (int, error) {
	c.sizes[c.at] = len(p)
	if c.at <= c.slowAt && c.slowAt < c.at+int64(len(p)) {
		time.Sleep(slow)
	}
	c.at += int64(len(p))
	return len(p), nil
}

// A slow client gets small buffers until it has taken more than a socket holds.
func TestPaceOfASlowClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := &paced{slowAt: 1 << 20, sizes: map[int64]int{}}
		if err := send(client, httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), &counted{rest: 16 << 20}); err != nil {
			t.Fatal(err)
		}
		first := client.slowAt - client.slowAt%largeBuffer + store.ChunkSize // the large ones begin behind a chunk
		var got [3]int64                                                     // how many bytes went in large writes, before the slow one, soon after it, and later
		for at, n := range client.sizes {
			switch {
			case n != largeBuffer:
			case at < first:
				got[0] += int64(n)
			case at < first+fastAgain-largeBuffer:
				got[1] += int64(n)
			default:
				got[2] += int64(n)
			}
		}
		if got[0] < 1<<20-2*largeBuffer || got[1] != 0 || got[2] < 16<<20-first-fastAgain-2*largeBuffer {
			t.Errorf("in large writes: %d bytes before the slow one, %d in the %d that follow, %d later", got[0], got[1], fastAgain, got[2])
		}
	})
}

// memory is a body that is in memory.
type memory []byte

func (m memory) Range(start, end int64) io.Reader { return bytes.NewReader(m[start:end]) }
func (memory) Verified() bool                     { return true }
func (memory) Await() error                       { return nil }
func (memory) Close() error                       { return nil }

// flushes counts how often what was written is sent.
type flushes struct {
	*httptest.ResponseRecorder
	n int
}

func (f *flushes) Flush() { f.n++ }

// Podman asks for many parts of a few bytes: a system call for each would cost more than the bytes.
func TestPartsOfWhatIsInMemoryLeaveTogether(t *testing.T) {
	t.Parallel()
	body := bytes.Repeat([]byte("0123456789"), 400)
	var spans []span
	for i := range int64(100) {
		spans = append(spans, span{40 * i, 40*i + 10})
	}
	w := &flushes{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if err := (&Handler{}).parts(w, r, &cache.Content{Body: memory(body)}, int64(len(body)), spans); err != nil {
		t.Fatal(err)
	}
	if got := bytes.Count(w.Body.Bytes(), []byte("0123456789")); got != len(spans) || w.n > 1 {
		t.Errorf("%d parts, sent %d times", got, w.n)
	}
}

// What is in memory is sent before the handler has ended where that completes the answer: one of HTTP/2 would take a frame more.
func TestWhenMemoryIsSent(t *testing.T) {
	t.Parallel()
	for major, want := range map[int]int{1: 1, 2: 0} {
		w := &flushes{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.ProtoMajor = major
		if err := send(w, w, r, bytes.NewReader([]byte("body"))); err != nil || w.Body.String() != "body" || w.n != want {
			t.Errorf("HTTP/%d: %q, sent %d times, want %d; %v", major, w.Body, w.n, want, err)
		}
	}
}
