package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
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
	// largePerCore bounds the responses that have the large buffer. A core fills one at a time; the others wait for
	// their sockets. What thousands of slow readers take at first would otherwise be memory for as many.
	largePerCore = 16
)

// larges is how many responses have the large buffer.
var larges atomic.Int64

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
	if b, ok := body.(*bytes.Reader); ok {
		return gone(sendMemory(out, w, r, b))
	}
	p := newPace(gather.From(r))
	defer func() {
		if stopped := p.end(); err == nil {
			err = gone(stopped)
		}
	}()
	for {
		waited, err := p.await()
		if err != nil {
			return gone(err)
		}
		n, rerr := body.Read(*p.buffer)
		if n > 0 {
			start := time.Now()
			if _, err := out.Write((*p.buffer)[:n]); err != nil {
				return gone(err)
			}
			if n < len(*p.buffer) && rerr == nil {
				if err := errors.Join(http.NewResponseController(w).Flush(), p.conn.Flush()); err != nil {
					return gone(err)
				}
			}
			if err := p.wrote(n, waited+time.Since(start)); err != nil {
				return gone(err)
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

// sendMemory is send for a body that is in memory: it leaves with its head, before the handler's work is over. A part of
// what the client gets leaves with the others, and an HTTP/2 stream ends with the handler whatever was sent before.
func sendMemory(out io.Writer, w http.ResponseWriter, r *http.Request, body *bytes.Reader) error {
	if out != w || r.ProtoMajor != 1 {
		_, err := body.WriteTo(out)
		return err
	}
	conn := gather.From(r)
	conn.Start()
	_, err := body.WriteTo(w)
	return errors.Join(err, http.NewResponseController(w).Flush(), conn.Stop())
}

// gone marks an error of writing to the client.
func gone(err error) error {
	if err == nil {
		return nil
	}
	return &errCut{clientGone{err}}
}

// pace is how much of a body is read and sent at a time.
type pace struct {
	conn   *gather.Conn
	large  bool
	buffer *[]byte
	sent   int64 // of the body
	quick  int64 // of it, since the last slow write
	needed int64 // how much of that makes for the large buffer
}

// newPace begins with two small buffers: what is read after them begins with a chunk of the store, which reads and checks
// whole chunks.
func newPace(conn *gather.Conn) *pace {
	return &pace{conn: conn, buffer: smallBuffers.Get().(*[]byte), needed: store.ChunkSize}
}

// await waits, without a buffer, until a client that has been slow takes more.
func (p *pace) await() (time.Duration, error) {
	if p.needed < fastAgain || p.large {
		return 0, nil
	}
	smallBuffers.Put(p.buffer)
	start := time.Now()
	err := p.conn.Await()
	p.buffer = smallBuffers.Get().(*[]byte)
	return time.Since(start), err
}

// wrote takes note of a write, and of the wait before it, and changes the pace for the next.
func (p *pace) wrote(n int, took time.Duration) error {
	p.sent += int64(n)
	p.quick += int64(n)
	switch {
	case took >= slow:
		p.quick, p.needed = 0, fastAgain
		return p.shrink()
	case !p.large && p.quick >= p.needed && p.sent%store.ChunkSize == 0:
		p.grow()
	}
	return nil
}

// grow takes the large buffer, if there is one to be had.
func (p *pace) grow() {
	if larges.Add(1) > int64(largePerCore*runtime.GOMAXPROCS(0)) {
		larges.Add(-1)
		return
	}
	smallBuffers.Put(p.buffer)
	p.buffer, p.large = largeBuffers.Get().(*[]byte), true
	p.conn.Start()
}

// shrink gives it back.
func (p *pace) shrink() error {
	if !p.large {
		return nil
	}
	larges.Add(-1)
	largeBuffers.Put(p.buffer)
	p.buffer, p.large = smallBuffers.Get().(*[]byte), false
	return p.conn.Stop()
}

// end gives the buffers back and sends what is held back.
func (p *pace) end() error {
	err := p.shrink()
	smallBuffers.Put(p.buffer)
	return err
}

// clientGone marks an error of the client's connection, as against one of upstream or the cache.
type clientGone struct{ err error }

func (e clientGone) Error() string { return "client gone: " + e.err.Error() }
func (e clientGone) Unwrap() error { return e.err }
