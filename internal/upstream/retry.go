package upstream

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// maxRetries is how often a GET or HEAD is asked again that a connection broke before its answer, or that a gateway
// could not bring to the registry.
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

// flapping reports whether an answer is a gateway's that just now reached nobody. A registry that says that it has too
// much to do, or when to come back, is believed.
func flapping(resp *http.Response) bool {
	gateway := resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusGatewayTimeout
	return gateway && resp.Header.Get("Retry-After") == ""
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

const (
	// budgetShare is how many retries a request adds to the budget of its host: retries never make up more of what a
	// host in trouble is asked.
	budgetShare = 0.1
	// budgetMost bounds what is saved up in good times.
	budgetMost = 20
)

// budget keeps retries a small share of all requests to a host. So that the few requests of a quiet proxy can be retried
// too, there are some retries to begin with, and one comes back every ten seconds.
type budget struct {
	quiet *rate.Limiter

	mu    sync.Mutex // guards saved
	saved float64
}

func newBudget() budget { return budget{quiet: rate.NewLimiter(rate.Every(10*time.Second), 6)} }

// asked takes note of a request that is no retry.
func (b *budget) asked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.saved = min(b.saved+budgetShare, budgetMost)
}

// retry reports whether one more retry is within the budget, and takes it.
func (b *budget) retry() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.saved >= 1 {
		b.saved--
		return true
	}
	return b.quiet.Allow()
}
