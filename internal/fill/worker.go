package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"container-registry-proxy/internal/store"
)

const (
	// minRate is the pace, in bytes a second, below which a connection is given up and the rest asked for anew.
	minRate = 1 << 10
	// patience is over how long the pace is taken.
	patience = 30 * time.Second
)

// errSlow is why a worker is dismissed whose connection brings next to nothing.
var errSlow = errors.New("upstream sends less than 1 KiB a second")

// errLate is why a worker is dismissed that was to bring the first part and has not begun when it is due.
var errLate = errors.New("another connection has gone on")

// EndError is a source's word that no byte follows the offset that was asked for.
type EndError struct {
	Size int64 // of the whole blob, -1 if the source does not say
}

func (e *EndError) Error() string { return fmt.Sprintf("asked for bytes past the end, %d", e.Size) }

// Permanent is always true.
func (e *EndError) Permanent() bool { return true }

// worker brings one run of bytes over one connection. Its offsets are guarded by fill.mu.
type worker struct {
	source Source
	cancel context.CancelCauseFunc // ends the connection
	spare  bool                    // it holds one of the connections that all fills share
	round  int                     // of the conductor's failures, when it was started

	start  int64
	at     int64 // the next byte it brings
	end    int64 // up to where; -1 while the size of the blob is not known
	limit  int64 // up to where its delivery goes, at or behind end; -1 for the last byte
	begun  bool  // bytes come
	seen   int64 // at, when its pace was last looked at
	seenAt time.Time
}

// covers reports whether the worker is on its way to the byte at off.
func (w *worker) covers(off int64) bool { return w.at <= off && (off < w.end || w.end < 0) }

// fetch asks a source. The delivery's own cancel ends it.
func fetch(ctx context.Context, src Source, start, end int64) (*Delivery, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	d, err := src.Fetch(ctx, start, end)
	if err != nil {
		cancel(err)
		return nil, err
	}
	d.cancel = cancel
	if d.Start > start {
		d.close()
		return nil, fmt.Errorf("asked for byte %d, got byte %d", start, d.Start)
	}
	return d, nil
}

func (d *Delivery) close() {
	_ = d.Body.Close() // the response of a GET: there is nothing to lose
	d.cancel(nil)
}

// skip reads what comes before at.
func (d *Delivery) skip(at int64) error {
	_, err := io.CopyN(io.Discard, d.Body, at-d.Start)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// work brings the worker's run into the file, over the delivery if there is one, and returns nil at its end. The end
// may move towards it meanwhile, when another worker takes a share.
func (x *fill) work(ctx context.Context, w *worker, delivery *Delivery) error {
	at, _ := x.run(w)
	if delivery == nil {
		start, end := x.question(w)
		var err error
		if delivery, err = fetch(ctx, w.source, start, end); err != nil {
			return x.atEnd(start, err)
		}
	}
	defer delivery.close()
	defer context.AfterFunc(ctx, func() { delivery.cancel(context.Cause(ctx)) })()
	if err := x.agree(delivery); err != nil {
		return err
	}
	if delivery.Start < at { // it sends again what we have, which is skipped, not staged twice
		if x.rangesIgnored(w) {
			return nil
		}
		if err := delivery.skip(at); err != nil {
			return err
		}
	}
	x.begun(w, delivery.Start)
	return x.stage(ctx, w, delivery.Body)
}

// atEnd turns a source's word that nothing follows into the size of a blob of which that is all that was missing.
func (x *fill) atEnd(at int64, err error) error {
	if end, ok := errors.AsType[*EndError](err); ok && end.Size == at && x.total() < 0 {
		x.sized(at)
		return nil
	}
	return err
}

// agree takes note of what a delivery says of the blob, and checks its size against what is known.
func (x *fill) agree(delivery *Delivery) (err error) {
	x.update(func() {
		x.ranges = x.ranges || delivery.Ranges
		switch {
		case delivery.Size < 0 || delivery.Size == x.size:
		case x.size < 0:
			x.size = delivery.Size
		default:
			err = fmt.Errorf("size was %d bytes and is now %d", x.size, delivery.Size)
		}
	})
	return err
}

// stage copies body, whose next byte is the worker's next, into the file.
func (x *fill) stage(ctx context.Context, w *worker, body io.Reader) error {
	b := newBatch(x, w)
	defer b.close()
	for first := true; ; first = false {
		room, err := b.room(ctx)
		if err != nil || room == nil {
			return err
		}
		asked := time.Now()
		n, rerr := body.Read(room)
		if err := b.add(n, time.Since(asked), rerr != nil); err != nil {
			return err
		}
		if first { // whoever waits for it goes before what follows, which may keep a processor busy for long
			runtime.Gosched()
		}
		if rerr != nil {
			return x.bodyEnded(w, rerr)
		}
	}
}

// bodyEnded judges why a body ended: nil is the end that was expected.
func (x *fill) bodyEnded(w *worker, err error) error {
	x.mu.Lock()
	at, end, open := w.at, w.end, w.limit < 0
	x.mu.Unlock()
	switch {
	case err == io.EOF && end < 0 && open:
		x.sized(at)
		return nil
	case end >= 0 && at >= end:
		return nil
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}

// stagingError says that the file, not upstream, is the trouble. It matches [store.ErrNoSpace]: readers go on without
// the file.
type stagingError struct{ err error }

func (e *stagingError) Error() string        { return "stage: " + e.err.Error() }
func (e *stagingError) Is(target error) bool { return target == store.ErrNoSpace }
func (e *stagingError) Unwrap() error        { return e.err }
