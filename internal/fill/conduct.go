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

// errAbandoned ends a fill of which only parts were wanted, once nobody wants more. What is staged stays.
var errAbandoned = errors.New("nobody wants the rest")

// conductor brings what is missing of a blob: it decides which runs of bytes are asked for, over how many connections,
// and what to do when one breaks. Workers do the bringing. It runs in the fill's own goroutine.
type conductor struct {
	fill     *fill
	cfg      Config
	ended    chan ending
	wg       sync.WaitGroup
	tuner    tuner
	failures int       // in a row, without a new byte in between
	pauseEnd time.Time // no worker is started before
}

// ending is the last word of a worker.
type ending struct {
	worker *worker
	err    error
}

// conduct returns when the blob is whole, nobody wants more of it, or it cannot be had. All workers have ended then.
func (x *fill) conduct(ctx context.Context, cfg Config, leader *waiter, first *Delivery) error {
	ctx, cancel := context.WithCancel(ctx)
	c := &conductor{fill: x, cfg: cfg, ended: make(chan ending), tuner: tuner{limit: cfg.Connections, at: time.Now()}}
	defer func() {
		cancel()
		go func() { c.wg.Wait(); close(c.ended) }()
		for range c.ended { // the last words of those that were at work
		}
	}()
	if w := x.takeUp(leader.src, leader.want, first); w != nil {
		c.start(ctx, w, first)
	} else {
		_ = first.Body.Close() // an earlier process has staged what it brings
	}
	ticker := time.NewTicker(tunerPeriod)
	defer ticker.Stop()
	for {
		if err := c.dispatch(ctx); err == errWhole {
			return nil
		} else if err != nil {
			return err
		}
		select {
		case end := <-c.ended:
			if err := c.settle(end); err != nil {
				return err
			}
		case <-x.kick:
		case now := <-ticker.C:
			received, left := x.progress()
			c.tuner.tick(now, received, left)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// dispatch starts the workers that are needed now.
func (c *conductor) dispatch(ctx context.Context) error {
	if time.Now().Before(c.pauseEnd) {
		return nil
	}
	for {
		w, err := c.fill.assign(c.tuner.connections())
		if err != nil || w == nil {
			return err
		}
		c.start(ctx, w, nil)
	}
}

func (c *conductor) start(ctx context.Context, w *worker, delivery *Delivery) {
	c.wg.Go(func() {
		err := c.fill.work(ctx, w, delivery)
		c.ended <- ending{w, err}
	})
}

// settle takes a worker that has ended off the list and judges why it did.
func (c *conductor) settle(end ending) error {
	x, w := c.fill, end.worker
	moved := x.retire(w)
	switch {
	case end.err == nil:
		return nil
	case errors.Is(end.err, store.ErrNoSpace):
		return end.err
	case errors.Is(end.err, errRangeIgnored):
		x.withoutRanges()
		return nil
	case permanent(end.err):
		if !x.dropSource(w.source) {
			return end.err
		}
		return nil
	}
	if moved {
		c.failures = 0
	}
	if c.failures++; c.failures > c.cfg.Retries {
		return fmt.Errorf("broke off at byte %d: %w", x.frontier(), end.err)
	}
	pause := c.cfg.Backoff << (c.failures - 1)
	pause = pause/2 + rand.N(pause/2+1) // many that broke together do not come back together
	c.pauseEnd = time.Now().Add(pause)
	time.AfterFunc(pause, x.wake)
	return nil
}

// permanent reports whether asking the same source again would change nothing.
func permanent(err error) bool {
	var p interface{ Permanent() bool }
	return errors.As(err, &p) && p.Permanent()
}

// firstDelivery asks the waiters' sources, in the order they came, until one delivers.
func (x *fill) firstDelivery(ctx context.Context) (*waiter, *Delivery, error) {
	for {
		w := x.nextWaiter()
		if w == nil {
			return nil, nil, errNoSource
		}
		delivery, err := w.src.Fetch(ctx, w.want.Start, w.want.End)
		if err == nil && delivery.Start > w.want.Start {
			_ = delivery.Body.Close()
			err = fmt.Errorf("asked for byte %d, got byte %d", w.want.Start, delivery.Start)
		}
		if err == nil {
			return w, delivery, nil
		}
		x.sourceFailed(w.src.Key(), err)
	}
}

// prove hashes the staged bytes, from the first on, as they arrive and returns the proof once all are there.
func (x *fill) prove(ctx context.Context) (store.Proof, error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	verifier := store.NewVerifier(x.digest)
	for {
		at := verifier.Size()
		err := x.wait(ctx, func() bool { return x.have.End(at) > at || at == x.size })
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
