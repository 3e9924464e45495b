package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"container-registry-proxy/internal/store"
)

// copyBuffer is what is received, hashed or relayed at a time: large enough that a system call is cheap beside the
// copy, small enough to stay in a core's cache.
const copyBuffer = 256 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// worker brings one run of bytes over one connection. Its offsets are guarded by fill.mu.
type worker struct {
	source Source
	start  int64
	at     int64 // the next byte it brings
	end    int64 // up to where; -1 while the size of the blob is not known
}

// errRangeIgnored says that a source that was asked for a part delivers the whole, while another connection is at that
// already.
var errRangeIgnored = errors.New("source ignores ranges")

// work brings the worker's run into the file, over the delivery if there is one, and returns nil at its end. The end
// may move towards it meanwhile, when another worker takes a share.
func (x *fill) work(ctx context.Context, w *worker, delivery *Delivery) error {
	if delivery == nil {
		start, end := x.run(w)
		var err error
		if delivery, err = w.source.Fetch(ctx, start, end); err != nil {
			return err
		}
	}
	defer delivery.Body.Close()
	at, _ := x.run(w)
	if err := x.agree(delivery); err != nil {
		return err
	}
	switch {
	case delivery.Start > at:
		return fmt.Errorf("asked for byte %d, got byte %d", at, delivery.Start)
	case delivery.Start < at && !x.alone(w):
		return errRangeIgnored
	case delivery.Start < at:
		x.withoutRanges()
	}
	// A source that ignores ranges sends again what we have: it is skipped, not staged twice.
	if _, err := io.CopyN(io.Discard, delivery.Body, at-delivery.Start); err != nil {
		return err
	}
	return x.stage(w, delivery.Body)
}

// agree takes note of what a delivery says of the blob, and checks its size against what is known.
func (x *fill) agree(delivery *Delivery) error {
	size := x.total()
	if delivery.Ranges {
		x.update(func() { x.ranges = true })
	}
	switch {
	case delivery.Size < 0 || delivery.Size == size:
		return nil
	case size < 0:
		x.sized(delivery.Size)
		return nil
	}
	return fmt.Errorf("size was %d bytes and is now %d", size, delivery.Size)
}

// stage copies body, whose next byte is the worker's next, into the file.
func (x *fill) stage(w *worker, body io.Reader) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	file := x.file.(store.Stage)
	for {
		at, end := x.run(w)
		buf := *buffer
		if end >= 0 {
			if at >= end {
				return nil
			}
			buf = buf[:min(int64(len(buf)), end-at)]
		}
		n, err := body.Read(buf)
		if n > 0 {
			if _, werr := file.WriteAt(buf[:n], at); werr != nil {
				return &stagingError{werr}
			}
			x.brought(w, int64(n))
		}
		if err == nil {
			continue
		}
		at, end = x.run(w)
		switch {
		case err == io.EOF && end < 0:
			x.sized(at)
			return nil
		case err == io.EOF && at < end:
			return io.ErrUnexpectedEOF
		case err == io.EOF, at == end:
			return nil
		}
		return err
	}
}

// stagingError says that the file, not upstream, is the trouble. It matches [store.ErrNoSpace]: readers go on without
// the file.
type stagingError struct{ err error }

func (e *stagingError) Error() string        { return "stage: " + e.err.Error() }
func (e *stagingError) Is(target error) bool { return target == store.ErrNoSpace }
func (e *stagingError) Unwrap() error        { return e.err }
