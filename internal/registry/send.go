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

// A response goes out in turns, each with a buffer of its own that is given back before the next: so the cores fill
// the same few, which stay in their caches. It starts with small buffers and gets large ones, with records gathered, unless
// its client is slow: a slow reader pins little memory, a fast one costs few system calls. More than 128 KiB falls out of
// the core's cache.
const (
	smallBuffer = 32 << 10
	largeBuffer = 128 << 10
	// A client is slow that keeps a write waiting so long, unless what it has taken since the one before comes to that many
	// bytes a second of the wait. A socket that is full takes more only when a third of what it holds has left, up to a
	// megabyte: of many clients that share the cores each keeps us waiting now and then, and none is slow.
	slowWrite = 50 * time.Millisecond
	slowRate  = 4 << 20
	// A socket takes up to 4 MiB at once of a client that reads slowly; only one that has taken more is fast again.
	fastAgain = 8 << 20
	// The large buffers that are in use are bounded. A core fills one at a time; others are held while a socket takes less
	// than it promised, or a registry brings less than was hoped for.
	largeAtLeast = 32
	largePerCore = 8
)

// larges is how many large buffers are in use.
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
func send(out io.Writer, w http.ResponseWriter, r *http.Request, body io.Reader) error {
	if b, ok := body.(*bytes.Reader); ok {
		return gone(sendMemory(out, w, r, b))
	}
	p := newPace(gather.From(r))
	for {
		rerr, err := p.turn(out, w, body)
		if err != nil {
			return gone(err)
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

// pace is how much of a body is read and sent in a turn.
type pace struct {
	conn   *gather.Conn
	most   int64 // how many large buffers may be in use
	sent   int64 // of the body
	burst  int64 // of it, since the last write that took long
	quick  int64 // of it, since the client was slow
	needed int64 // how much of that makes for large buffers
}

// newPace begins with two small buffers: what is read after them begins with a chunk of the store, which reads and checks
// whole chunks.
func newPace(conn *gather.Conn) *pace {
	return &pace{conn: conn, needed: store.ChunkSize, most: mostLarge()}
}

// turn sends the next part of body, once the client takes more if it is one to be asked. It returns the error of the body
// and that of the client.
func (p *pace) turn(out io.Writer, w http.ResponseWriter, body io.Reader) (rerr, err error) {
	start := time.Now()
	if p.hesitant() {
		if err := p.conn.Await(); err != nil {
			return nil, err
		}
	}
	pool := p.take()
	buffer := pool.Get().(*[]byte)
	defer func() {
		pool.Put(buffer)
		if pool == &largeBuffers {
			larges.Add(-1)
		}
	}()
	waited := time.Since(start)
	part := p.whole(*buffer)
	n, rerr := body.Read(part)
	if n == 0 {
		return rerr, nil
	}
	start = time.Now()
	if pool == &largeBuffers {
		p.conn.Start()
	}
	_, err = out.Write(part[:n])
	if err == nil && n < len(part) && rerr == nil {
		err = http.NewResponseController(w).Flush() // the next part may take long
	}
	if stopped := p.conn.Stop(); err == nil {
		err = stopped
	}
	p.wrote(n, waited+time.Since(start))
	return rerr, err
}

// hesitant reports whether the client is asked whether it takes more before a buffer is taken for it: one that has been
// slow, and each where large buffers are short. To ask others costs a tenth of the CPU.
func (p *pace) hesitant() bool {
	return p.needed == fastAgain && !p.fast() || larges.Load() >= p.most
}

// fast reports whether the client has taken enough without delay.
func (p *pace) fast() bool { return p.quick >= p.needed }

// whole is as much of a buffer as brings a fast client to the end of a chunk, where a fill that brought less than was asked
// for has left it within one.
func (p *pace) whole(buffer []byte) []byte {
	if within := p.sent % store.ChunkSize; within != 0 && p.fast() {
		return buffer[:min(int64(len(buffer)), store.ChunkSize-within)]
	}
	return buffer
}

// take chooses where the buffer of a turn is from.
func (p *pace) take() *sync.Pool {
	if !p.fast() || p.sent%store.ChunkSize != 0 {
		return &smallBuffers
	}
	if larges.Add(1) > p.most {
		larges.Add(-1)
		return &smallBuffers
	}
	return &largeBuffers
}

// mostLarge is how many large buffers may be in use.
func mostLarge() int64 { return int64(largeAtLeast + largePerCore*runtime.GOMAXPROCS(0)) }

// wrote takes note of a write, and of the wait before it.
func (p *pace) wrote(n int, took time.Duration) {
	p.sent += int64(n)
	p.burst += int64(n)
	p.quick += int64(n)
	if took < slowWrite {
		return
	}
	if float64(p.burst) < slowRate*took.Seconds() {
		p.quick, p.needed = 0, fastAgain
	}
	p.burst = 0
}

// clientGone marks an error of the client's connection, as against one of upstream or the cache.
type clientGone struct{ err error }

func (e clientGone) Error() string { return "client gone: " + e.err.Error() }
func (e clientGone) Unwrap() error { return e.err }
