package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"container-registry-proxy/internal/gather"
	"container-registry-proxy/internal/store"
)

// A response starts with a small buffer and gets the large one, with records gathered, while its writes are quick: a slow
// reader pins little memory, a fast one costs few system calls. More than 128 KiB falls out of the core's cache.
const (
	smallBuffer = 32 << 10
	largeBuffer = 128 << 10
	slow        = 50 * time.Millisecond
	// A socket takes up to 4 MiB at once of a client that reads slowly; only one that has taken more is fast again.
	fastAgain = 8 << 20
	// tiny is what net/http keeps until the handler returns, and then sends together with the head.
	tiny = 2 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallBuffer); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}
)

// errCut says that a response whose head is out cannot be completed: the connection is cut.
type errCut struct{ err error }

func (e *errCut) Error() string { return "response cut: " + e.err.Error() }
func (e *errCut) Unwrap() error { return e.err }

// send copies body to out, which is the client or a part of what it gets, TLS records gathered into large writes while it
// takes them quickly. Where a body gives less than it might, as a fill does that waits for its registry, nothing is held
// back. An error cuts the response.
func send(out io.Writer, w http.ResponseWriter, r *http.Request, body io.Reader) (err error) {
	if b, ok := body.(*bytes.Reader); ok && b.Len() <= tiny {
		if _, err := b.WriteTo(out); err != nil {
			return &errCut{clientGone{err}}
		}
		return nil
	}
	p := newPace(gather.From(r))
	defer func() {
		if stopped := p.end(); err == nil && stopped != nil {
			err = &errCut{clientGone{stopped}}
		}
	}()
	for {
		n, rerr := body.Read(*p.buffer)
		if n > 0 {
			start := time.Now()
			if _, err := out.Write((*p.buffer)[:n]); err != nil {
				return &errCut{clientGone{err}}
			}
			if n < len(*p.buffer) && rerr == nil {
				if err := errors.Join(http.NewResponseController(w).Flush(), p.conn.Flush()); err != nil {
					return &errCut{clientGone{err}}
				}
			}
			if err := p.wrote(n, time.Since(start)); err != nil {
				return &errCut{clientGone{err}}
			}
		}
		if rerr == io.EOF {
			return nil
		}
		if rerr != nil {
			if errors.Is(rerr, context.Canceled) && r.Context().Err() != nil {
				rerr = clientGone{rerr}
			}
			return &errCut{rerr}
		}
	}
}

// pace is how much of a body is read and sent at a time.
type pace struct {
	conn   *gather.Conn
	pool   *sync.Pool // that buffer is of
	buffer *[]byte
	sent   int64 // of the body
	quick  int64 // of it, since the last slow write
	needed int64 // how much of that makes for the large buffer
}

// newPace begins with two small buffers: what is read after them begins with a chunk of the store, which reads and checks
// whole chunks.
func newPace(conn *gather.Conn) *pace {
	conn.Start()
	return &pace{conn: conn, pool: &smallBuffers, buffer: smallBuffers.Get().(*[]byte), needed: store.ChunkSize}
}

// wrote takes note of a write, and changes the pace for the next.
func (p *pace) wrote(n int, took time.Duration) error {
	p.sent += int64(n)
	p.quick += int64(n)
	if took >= slow {
		p.quick, p.needed = 0, fastAgain
		p.change(&smallBuffers)
		return p.conn.Stop()
	}
	if p.pool == &smallBuffers && p.quick >= p.needed && p.sent%store.ChunkSize == 0 {
		p.change(&largeBuffers)
		p.conn.Start()
	}
	return nil
}

func (p *pace) change(pool *sync.Pool) {
	if p.pool != pool {
		p.pool.Put(p.buffer)
		p.pool, p.buffer = pool, pool.Get().(*[]byte)
	}
}

func (p *pace) end() error {
	p.pool.Put(p.buffer)
	return p.conn.Stop()
}

// clientGone marks an error of the client's connection, as against one of upstream or the cache.
type clientGone struct{ err error }

func (e clientGone) Error() string { return "client gone: " + e.err.Error() }
func (e clientGone) Unwrap() error { return e.err }
