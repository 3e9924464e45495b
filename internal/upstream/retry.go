package upstream

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"
)

// maxRetries is how often a GET or HEAD is asked again after a connection broke before its answer.
const maxRetries = 2

// retryAfter is the pause before the first retry, on average; each further one is four times as long.
const retryAfter = 100 * time.Millisecond

// transient reports whether asking again at once may well help: the connection broke. A time-out has waited enough
// already; what is refused, untrusted or unknown stays so.
func transient(err error) bool {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.IsTemporary && !dns.IsTimeout
	}
	for _, broken := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, broken) {
			return true
		}
	}
	return false
}

// pause waits before retry number attempt, half to one and a half times its average, so that clients do not return in
// step.
func pause(ctx context.Context, attempt int) error {
	average := retryAfter << (2 * attempt)
	timer := time.NewTimer(average/2 + rand.N(average))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
