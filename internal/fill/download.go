package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"container-registry-proxy/internal/store"
)

// copyBuffer is what is received, hashed or relayed at a time: large enough that a system call is cheap beside the
// copy, small enough to stay in a core's cache.
const copyBuffer = 256 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// firstDelivery asks the waiters' sources, in the order they came, until one delivers.
func (x *fill) firstDelivery(ctx context.Context) (Source, *Delivery, error) {
	for {
		src := x.nextSource()
		if src == nil {
			return nil, nil, errNoSource
		}
		delivery, err := src.Fetch(ctx, 0)
		if err == nil && delivery.Start != 0 {
			_ = delivery.Body.Close()
			err = fmt.Errorf("asked for byte 0, got byte %d", delivery.Start)
		}
		if err == nil {
			return src, delivery, nil
		}
		x.sourceFailed(src.Key(), err)
	}
}

// nextSource returns the source of the first waiter that has not failed. With none left the fill takes no more.
func (x *fill) nextSource() Source {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, w := range x.waiters {
		if w.err == nil {
			return w.src
		}
	}
	x.ended = true
	return nil
}

// sourceFailed tells all waiters with a source of that key why it failed.
func (x *fill) sourceFailed(key string, err error) {
	x.update(func() {
		for _, w := range x.waiters {
			if w.err == nil && w.src.Key() == key {
				w.err = err
			}
		}
	})
}

// download brings the rest of the blob into the stage. A delivery that breaks off is taken up where it stopped; it
// fails after cfg.Retries tries in a row without a new byte.
func (x *fill) download(ctx context.Context, cfg Config, src Source, delivery *Delivery) error {
	if x.frontier() > 0 { // an earlier process has staged the beginning: ask for the rest instead
		_ = delivery.Body.Close()
		delivery = nil
	}
	for failures := 0; ; {
		before := x.frontier()
		err := x.receive(ctx, src, delivery)
		delivery = nil
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if permanent(err) {
			return err
		}
		if x.frontier() > before {
			failures = 0
		}
		if failures++; failures > cfg.Retries {
			return fmt.Errorf("broke off at byte %d: %w", x.frontier(), err)
		}
		if err := pause(ctx, cfg.Backoff<<(failures-1)); err != nil {
			return err
		}
	}
}

// receive stages one delivery, asking for one from the frontier if there is none, and returns nil when the blob is
// whole.
func (x *fill) receive(ctx context.Context, src Source, delivery *Delivery) error {
	at := x.frontier()
	if size := x.total(); size >= 0 && at == size {
		return nil
	}
	if delivery == nil {
		var err error
		if delivery, err = src.Fetch(ctx, at); err != nil {
			return err
		}
	}
	defer delivery.Body.Close()
	if err := x.agree(delivery); err != nil {
		return err
	}
	if delivery.Start > at {
		return fmt.Errorf("asked for byte %d, got byte %d", at, delivery.Start)
	}
	// A source that ignores ranges sends again what we have: it is skipped, not staged twice.
	if _, err := io.CopyN(io.Discard, delivery.Body, at-delivery.Start); err != nil {
		return err
	}
	return x.stage(delivery, at)
}

// agree checks the size that a delivery names against what is known of the blob.
func (x *fill) agree(delivery *Delivery) error {
	size := x.total()
	switch {
	case delivery.Size < 0 || delivery.Size == size:
		return nil
	case size < 0:
		x.sized(delivery.Size)
		return nil
	}
	return fmt.Errorf("size was %d bytes and is now %d", size, delivery.Size)
}

// stage copies a delivery, whose next byte is the one at offset at, into the file.
func (x *fill) stage(delivery *Delivery, at int64) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	file := x.file.(store.Stage)
	for {
		buf := *buffer
		if size := x.total(); size >= 0 {
			if at == size {
				return nil
			}
			buf = buf[:min(int64(len(buf)), size-at)]
		}
		n, err := delivery.Body.Read(buf)
		if n > 0 {
			if _, werr := file.WriteAt(buf[:n], at); werr != nil {
				return &stagingError{werr}
			}
			x.wrote(at, at+int64(n))
			at += int64(n)
		}
		switch {
		case err == io.EOF && x.total() < 0:
			x.sized(at)
			return nil
		case err == io.EOF && at < x.total():
			return io.ErrUnexpectedEOF
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// prove hashes the staged bytes as they arrive and returns the proof once all are there.
func (x *fill) prove(ctx context.Context) (store.Proof, error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	verifier := store.NewVerifier(x.digest)
	for {
		at := verifier.Size()
		err := x.wait(ctx, func() bool { return x.have.end(at) > at || at == x.size })
		if err != nil {
			return store.Proof{}, err
		}
		if at == x.total() {
			return verifier.Proof()
		}
		n := min(x.frontier()-at, int64(len(*buffer)))
		if _, err := x.file.ReadAt((*buffer)[:n], at); err != nil && err != io.EOF {
			return store.Proof{}, &stagingError{err}
		}
		_, _ = verifier.Write((*buffer)[:n])
	}
}

// stagingError says that the file, not upstream, is the trouble. It matches [store.ErrNoSpace]: readers go on without
// the file.
type stagingError struct{ err error }

func (e *stagingError) Error() string        { return "stage: " + e.err.Error() }
func (e *stagingError) Is(target error) bool { return target == store.ErrNoSpace }
func (e *stagingError) Unwrap() error        { return e.err }

// permanent reports whether trying again would change nothing.
func permanent(err error) bool {
	if errors.Is(err, store.ErrNoSpace) {
		return true
	}
	var p interface{ Permanent() bool }
	return errors.As(err, &p) && p.Permanent()
}

// pause waits for between half of d and d: many fills that broke together do not come back together.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d/2 + rand.N(d/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
