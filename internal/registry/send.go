package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"container-registry-proxy/internal/gather"
)

// A response starts with a small buffer and gets the large one once a write of a full small one was quick: a slow
// reader pins little memory, a fast one costs few system calls. More than 128 KiB falls out of the core's cache.
const (
	smallBuffer = 32 << 10
	largeBuffer = 128 << 10
	quick       = 50 * time.Millisecond
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
// lasts. Where a body gives less than it might, as a fill does that waits for its registry, nothing is held back. An
// error cuts the response.
func send(out io.Writer, w http.ResponseWriter, r *http.Request, body io.Reader) (err error) {
	conn := gather.From(r)
	conn.Start()
	defer func() {
		if stopped := conn.Stop(); err == nil && stopped != nil {
			err = &errCut{stopped}
		}
	}()
	pool := &smallBuffers
	buffer := pool.Get().(*[]byte)
	defer func() { pool.Put(buffer) }()
	for {
		n, rerr := body.Read(*buffer)
		if n > 0 {
			start := time.Now()
			if _, err := out.Write((*buffer)[:n]); err != nil {
				return &errCut{clientGone{err}}
			}
			if n < len(*buffer) && rerr == nil {
				if err := errors.Join(http.NewResponseController(w).Flush(), conn.Flush()); err != nil {
					return &errCut{clientGone{err}}
				}
			}
			if pool == &smallBuffers && n == smallBuffer && time.Since(start) < quick {
				pool.Put(buffer)
				pool = &largeBuffers
				buffer = pool.Get().(*[]byte)
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

// clientGone marks an error of the client's connection, as against one of upstream or the cache.
type clientGone struct{ err error }

func (e clientGone) Error() string { return "client gone: " + e.err.Error() }
func (e clientGone) Unwrap() error { return e.err }
