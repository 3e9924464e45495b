package registry

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

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
	for _, size := range []int{0, 1, tiny, tiny + 1, smallBuffer, largeBuffer + 1} {
		want := bytes.Repeat([]byte{7}, size)
		w := httptest.NewRecorder()
		if err := send(w, w, httptest.NewRequest(http.MethodGet, "/", nil), bytes.NewReader(want)); err != nil || !bytes.Equal(w.Body.Bytes(), want) {
			t.Errorf("%d bytes: %d sent, %v", size, w.Body.Len(), err)
		}
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
