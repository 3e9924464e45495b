package upstream

import (
	"context"
	"io"
	"sync/atomic"
	"time"
)

// progressBody is a response body that fails when a read waits longer than timeout. There is no bound on the whole.
type progressBody struct {
	io.ReadCloser
	timeout time.Duration
	ctx     context.Context // the request's, cancelled by late and Close
	cancel  context.CancelCauseFunc
	slot    *slot // of the host; nil if it holds none
	timer   *time.Timer
	made    time.Time
	reading atomic.Int64 // since when, from made on; 0 between two reads
	// fail turns an error of the body into the caller's, and received is told how many bytes came; both may be nil.
	fail     func(error) error
	received func(int)
}

// watchBody wraps body, which belongs to a request made with ctx; cancel ends that request. The slot, which may be nil,
// is left when the body is closed, and given to others while nobody reads.
func watchBody(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser, timeout time.Duration, s *slot) *progressBody {
	b := &progressBody{ReadCloser: body, timeout: timeout, ctx: ctx, cancel: cancel, slot: s, made: time.Now()}
	b.timer = time.AfterFunc(lend, b.late)
	return b
}

// late is the timer's: a read that takes too long fails, and a reader that takes long gives its slot to others. It may
// come too late itself, when what it waited for has just happened.
func (b *progressBody) late() {
	switch since := b.reading.Load(); {
	case since == 0 && b.slot != nil:
		b.slot.rest()
	case since != 0 && time.Since(b.made)-time.Duration(since) >= b.timeout:
		b.cancel(errStalled)
	}
}

func (b *progressBody) Read(p []byte) (int, error) {
	b.reading.Store(int64(max(time.Since(b.made), 1)))
	b.timer.Reset(b.timeout)
	if b.slot != nil {
		b.slot.resume()
	}
	n, err := b.ReadCloser.Read(p)
	b.reading.Store(0)
	b.timer.Reset(lend)
	if b.received != nil && n > 0 {
		b.received(n)
	}
	if err == nil {
		return n, nil
	}
	if cause := context.Cause(b.ctx); cause != nil {
		// Even at EOF: a server that sees us leave may end the body properly, and a short one would pass for the whole.
		err = cause
	}
	if err == io.EOF {
		return n, err
	}
	if b.fail != nil {
		err = b.fail(err)
	}
	return n, err
}

func (b *progressBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(context.Canceled)
	if b.slot != nil {
		b.slot.leave()
	}
	return err
}
