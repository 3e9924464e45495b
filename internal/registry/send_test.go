package registry

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/gather"
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
	limit := int(mostLarge())
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

// paced is a client that keeps the writes waiting that have the bytes at some offsets, and takes note of the sizes of all.
type paced struct {
	waits map[int64]time.Duration
	at    int64
	sizes map[int64]int // by where they begin
}

func (c *paced) Write(p []byte) (int, error) {
	c.sizes[c.at] = len(p)
	for at, wait := range c.waits {
		if c.at <= at && at < c.at+int64(len(p)) {
			time.Sleep(wait)
		}
	}
	c.at += int64(len(p))
	return len(p), nil
}

// large is how many of the bytes from start to end went in large writes.
func (c *paced) large(start, end int64) (sum int64) {
	for at, n := range c.sizes {
		if n == largeBuffer && start <= at && at < end {
			sum += int64(n)
		}
	}
	return sum
}

// A slow client gets small buffers until it has taken more than a socket holds.
func TestPaceOfASlowClient(t *testing.T) {
	t.Parallel()
	const size, at = 32 << 20, 10 << 20
	for name, tt := range map[string]struct {
		waits map[int64]time.Duration
		slow  bool // at the offset
	}{
		"it keeps a write waiting for long":              {map[int64]time.Duration{at: 3 * time.Second}, true},
		"it takes little and keeps the next one waiting": {map[int64]time.Duration{at - 256<<10: 100 * time.Millisecond, at: 100 * time.Millisecond}, true},
		"it takes much and keeps the next one waiting":   {map[int64]time.Duration{2 << 20: 400 * time.Millisecond, at: 400 * time.Millisecond}, false},
		"it takes little at a time, and soon":            {map[int64]time.Duration{at - 256<<10: 40 * time.Millisecond, at: 40 * time.Millisecond}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client := &paced{waits: tt.waits, sizes: map[int64]int{}}
				if err := send(client, httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), &counted{rest: size}); err != nil {
					t.Fatal(err)
				}
				before, after, later := client.large(0, at), client.large(at+largeBuffer, at+fastAgain), client.large(at+fastAgain+largeBuffer, size)
				if before < at-largeBuffer || (after == 0) != tt.slow || later < size-at-fastAgain-2*largeBuffer {
					t.Errorf("in large writes: %d bytes before, %d in the %d that follow, %d later", before, after, fastAgain, later)
				}
			})
		})
	}
}

// Where more clients are waited for than the cores can serve, no buffer is taken for one that takes nothing.
func TestManyClientsAreAskedFirst(t *testing.T) { // not parallel: as if all large buffers were in use
	for name, tt := range map[string]struct {
		others int64
		asked  bool
	}{"few": {mostLarge() - 1, false}, "many": {mostLarge(), true}} {
		t.Run(name, func(t *testing.T) {
			larges.Add(tt.others)
			defer larges.Add(-tt.others)
			near, far := full(t)
			conn := gather.New(near, 0)
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			body := make(empty)
			sent := make(chan error, 1)
			go func() {
				sent <- send(conn, httptest.NewRecorder(), r.WithContext(gather.NewContext(r.Context(), conn)), body)
			}()
			if tt.asked {
				select {
				case <-body:
					t.Error("a buffer has been taken for a client that takes nothing")
				case <-time.After(100 * time.Millisecond):
				}
				go func() { _, _ = io.Copy(io.Discard, far) }() // until the test ends
			}
			<-body // otherwise although the client takes nothing
			if err := <-sent; err != nil {
				t.Error(err)
			}
		})
	}
}

// empty is a body that says when it is read.
type empty chan struct{}

func (e empty) Read([]byte) (int, error) {
	close(e)
	return 0, io.EOF
}

// full is a TCP connection that takes no more, and its far end.
func full(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err == nil {
		t.Cleanup(func() { _ = near.Close() })
		far, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	for n := 1; n > 0; { // until it takes nothing for a while
		if err := near.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, _ = near.Write(make([]byte, 1<<20))
	}
	if err := near.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	return near, far
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
