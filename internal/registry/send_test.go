package registry

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/store"
)

// counted is a body that takes note of where the large reads from it begin.
type counted struct {
	rest   int64
	at     int64
	begins []int64
}

func (c *counted) Read(p []byte) (int, error) {
	if c.rest == 0 {
		return 0, io.EOF
	}
	if len(p) == largeBuffer {
		c.begins = append(c.begins, c.at)
	}
	n := min(int64(len(p)), c.rest)
	c.rest -= n
	c.at += n
	return int(n), nil
}

// The store reads and checks whole chunks: a read that begins within one costs another.
func TestLargeReadsBeginWithAChunk(t *testing.T) {
	t.Parallel()
	const size = 64<<20 + 5
	body := &counted{rest: size}
	if err := send(io.Discard, httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), body); err != nil {
		t.Fatal(err)
	}
	if body.at != size || len(body.begins) == 0 {
		t.Fatalf("%d bytes sent, %d large reads; want %d and many", body.at, len(body.begins), size)
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

// However many responses are fast, only so many have the large buffer; what one gives back another takes.
func TestLargeBuffersAreBounded(t *testing.T) { // not parallel: it takes all there are
	limit := largePerCore * runtime.GOMAXPROCS(0)
	var all []*pace
	for range limit + 3 {
		p := newPace(nil)
		all = append(all, p)
		for range 4 {
			if err := p.wrote(len(*p.buffer), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	large := 0
	for _, p := range all {
		if len(*p.buffer) == largeBuffer {
			large++
		}
	}
	if large != limit {
		t.Errorf("%d of %d responses have the large buffer, want %d", large, len(all), limit)
	}
	if err := all[0].wrote(1, slow); err != nil {
		t.Fatal(err)
	}
	last := all[len(all)-1]
	for range 2 { // to the end of a chunk
		if err := last.wrote(len(*last.buffer), 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(*last.buffer); got != largeBuffer {
		t.Errorf("reads of %d bytes after another became slow, want %d", got, largeBuffer)
	}
	for _, p := range all {
		if err := p.end(); err != nil {
			t.Error(err)
		}
	}
	if got := larges.Load(); got != 0 {
		t.Errorf("%d large buffers are in use at the end, want 0", got)
	}
}

// A slow client gets the small buffer until it has taken more than a socket holds.
func TestPaceOfASlowClient(t *testing.T) {
	t.Parallel()
	p := newPace(nil)
	write := func(bytes int64, took time.Duration) {
		for bytes > 0 {
			n := int64(len(*p.buffer))
			if err := p.wrote(int(n), took); err != nil {
				t.Fatal(err)
			}
			bytes -= n
		}
	}
	size := func(when string, want int) {
		t.Helper()
		if got := len(*p.buffer); got != want {
			t.Errorf("%s: reads of %d bytes, want %d", when, got, want)
		}
	}
	write(1<<20, 0)
	size("fast from the first", largeBuffer)
	write(1, slow)
	size("after a slow write", smallBuffer)
	write(4<<20, 0)
	size("after what a socket holds", smallBuffer)
	write(8<<20, 0)
	size("fast again", largeBuffer)
	if err := p.end(); err != nil {
		t.Error(err)
	}
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
