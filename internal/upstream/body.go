package upstream

import (
	"context"
	"io"
	"time"
)

// progressBody is a response body that fails when a read waits longer than timeout. There is no bound on the whole.
type progressBody struct {
	io.ReadCloser
	timeout time.Duration
	ctx     context.Context // the request's, cancelled by stalled and Close
	cancel  context.CancelCauseFunc
	stalled *time.Timer
	// fail turns an error of the body into the caller's, and received is told how many bytes came; both may be nil.
	fail     func(error) error
	received func(int)
}

// watchBody wraps body, which belongs to a request made with ctx; cancel ends that request.
func watchBody(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser, timeout time.Duration) *progressBody {
	b := &progressBody{ReadCloser: body, timeout: timeout, ctx: ctx, cancel: cancel}
	b.stalled = time.AfterFunc(timeout, func() { cancel(errStalled) })
	b.stalled.Stop()
	return b
}

func (b *progressBody) Read(p []byte) (int, error) {
	b.stalled.Reset(b.timeout)
	n, err := b.ReadCloser.Read(p)
	b.stalled.Stop()
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
	b.stalled.Stop()
	err := b.ReadCloser.Close()
	b.cancel(context.Canceled)
	return err
}
