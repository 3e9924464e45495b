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

// errAbandoned ends a fill whose rest nobody wants. What is staged stays.
var errAbandoned = errors.New("nobody wants the rest")

// maxPause is the longest pause that is worth keeping clients waiting for.
const maxPause = 30 * time.Second

// conductor brings what is missing of a blob: it decides which runs of bytes are asked for, over how many connections,
// and what to do when one breaks. Workers do the bringing. It runs in the fill's own goroutine.
type conductor struct {
	fills    *Fills
	fill     *fill
	ended    chan ending
	wg       sync.WaitGroup
	tuner    tuner
	failures int       // in a row, without progress in between
	round    int       // of failures: workers that were started in an earlier one share its cause
	pauseEnd time.Time // no worker is started before
}

// ending is the last word of a worker.
type ending struct {
	worker *worker
	err    error
}

// opening is the first delivery of a fill.
type opening struct {
	*Delivery
	src   Source
	asked store.Extent
	stale bool // what an earlier fill has left does not go with it
}

// conduct returns when the blob is whole, nobody wants more of it, or it cannot be had. All workers have ended then.
func (f *Fills) conduct(ctx context.Context, x *fill, first *opening) error {
	ctx, cancel := context.WithCancel(ctx)
	c := &conductor{fills: f, fill: x, ended: make(chan ending), tuner: newTuner(f.connections(x.source()))}
	defer func() {
		cancel()
		go func() { c.wg.Wait(); close(c.ended) }()
		for end := range c.ended { // the last words of those that were at work
			x.retire(end.worker, f.spare)
		}
	}()
	if first != nil {
		if w := x.takeUp(first.src, first.asked, first.Delivery); w != nil {
			c.start(ctx, w, first.Delivery)
		} else {
			first.close()
		}
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
			c.look(now)
			if c.tuner.settled {
				ticker.Reset(time.Second)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// dispatch starts the workers that are needed now. After a failure one goes ahead to see.
func (c *conductor) dispatch(ctx context.Context) error {
	for {
		w, err := c.fill.assign(c.plan())
		if err != nil || w == nil {
			return err
		}
		c.start(ctx, w, nil)
	}
}

func (c *conductor) plan() plan {
	p := plan{
		connections: c.tuner.connections(), run: c.tuner.run(), spare: c.fills.spare,
		paused: time.Now().Before(c.pauseEnd), cautious: c.failures > 0, worthFinishing: c.fills.worthFinishing,
	}
	p.connections = min(p.connections, c.fills.connections(c.fill.source()))
	return p
}

// connections is over how many a blob may be fetched from a source.
func (f *Fills) connections(src Source) int {
	if f.cfg.ConnectionsTo != nil {
		if n := f.cfg.ConnectionsTo(src); n > 0 {
			return n
		}
	}
	return f.cfg.Connections
}

// look is what is done from time to time.
func (c *conductor) look(now time.Time) {
	c.tuner.tick(now, c.fill.sample())
	c.fill.dismissSlow(now)
	if c.failures > 0 && c.fill.progressed(c.round) {
		c.failures = 0
	}
}

func (c *conductor) start(ctx context.Context, w *worker, delivery *Delivery) {
	ctx, cancel := context.WithCancelCause(ctx)
	w.cancel, w.round = cancel, c.round
	c.wg.Go(func() {
		err := c.fill.work(ctx, w, delivery)
		if context.Cause(ctx) == errLate {
			err = nil // that is no failure
		}
		cancel(nil)
		c.ended <- ending{w, err}
	})
}

// settle takes a worker that has ended off the list and judges why it did.
func (c *conductor) settle(end ending) error {
	x, w := c.fill, end.worker
	if x.retire(w, c.fills.spare) {
		c.failures = 0
	}
	switch {
	case end.err == nil:
		return nil
	case errors.Is(end.err, store.ErrNoSpace):
		return end.err
	case permanent(end.err):
		return c.nextSource(w.source, end.err)
	case w.round < c.round && c.failures > 0:
		return nil // it broke with another, which has been counted
	}
	c.failures++
	c.round++
	pause, ok := c.pause(end.err)
	if c.failures > c.fills.cfg.Retries || !ok {
		return c.nextSource(w.source, fmt.Errorf("broke off at byte %d: %w", x.frontier(), end.err))
	}
	c.fills.metrics.resumes.Inc()
	c.pauseEnd = time.Now().Add(pause)
	time.AfterFunc(pause, x.wake)
	return nil
}

// nextSource gives up a source for good, and returns err if that was the last.
func (c *conductor) nextSource(src Source, err error) error {
	if !c.fill.dropSource(src) {
		return err
	}
	c.failures = 0
	return nil
}

// pause is how long to wait before a broken download is taken up again, and whether that is worth waiting for. Tries
// that follow a try that brought nothing share one allowance over all fills: when a registry is in trouble, those of all
// fills together must not add to it.
func (c *conductor) pause(err error) (time.Duration, bool) {
	pause := c.fills.cfg.Backoff << (c.failures - 1)
	pause = pause/2 + rand.N(pause/2+1) // many that broke together do not come back together
	if later, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err); ok {
		pause = max(pause, later.RetryAfter())
	}
	if c.failures > 1 {
		r := c.fills.again.Reserve()
		if pause = max(pause, r.Delay()); pause > maxPause {
			r.Cancel()
		}
	}
	return pause, pause <= maxPause
}

// permanent reports whether asking the same source again would change nothing.
func permanent(err error) bool {
	var p interface{ Permanent() bool }
	return errors.As(err, &p) && p.Permanent()
}

// worthFinishing reports whether a blob that nobody reads any more is to be completed.
func (f *Fills) worthFinishing(there, size int64) bool {
	if f.cfg.FinishShare <= 0 {
		return true
	}
	return size >= 0 && (float64(there) >= f.cfg.FinishShare*float64(size) || size-there <= f.cfg.FinishLeft)
}

// firstDelivery asks the waiters' sources, in the order they came, until one delivers what its waiter wants first. The
// delivery is nil where all of that is there.
func (f *Fills) firstDelivery(x *fill) (*waiter, *opening, error) {
	for {
		w := x.nextWaiter()
		if w == nil {
			return nil, nil, errNoSource
		}
		asked, missing := x.missing(w.want)
		if !missing {
			return w, nil, nil
		}
		delivery, err := f.ask(x, w.src, asked)
		stale := err != nil && permanent(err) && asked != w.want
		if stale { // it may refuse the rest alone, because there is none: the size was a wrong one
			asked = w.want
			delivery, err = f.ask(x, w.src, asked)
		}
		switch {
		case err == nil:
			return w, &opening{delivery, w.src, asked, stale}, nil
		case err == errAbandoned:
			return nil, nil, err
		case f.ctx.Err() != nil:
			return nil, nil, context.Cause(f.ctx)
		}
		x.sourceFailed(w.src.Key(), err)
	}
}

// ask fetches, unless nobody waits any more for what is not worth having then.
func (f *Fills) ask(x *fill, src Source, asked store.Extent) (*Delivery, error) {
	if f.worthFinishing(0, -1) {
		return fetch(f.ctx, src, asked.Start, asked.End)
	}
	ctx, cancel := context.WithCancelCause(f.ctx)
	watched, done := context.WithCancel(f.ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		if x.abandoned(watched) {
			cancel(errAbandoned)
		}
	})
	delivery, err := fetch(ctx, src, asked.Start, asked.End)
	done()
	watch.Wait()
	if err == nil && ctx.Err() != nil {
		delivery.close()
		err = errAbandoned
	}
	if err != nil {
		if context.Cause(ctx) == errAbandoned {
			err = errAbandoned
		}
		cancel(err)
		return nil, err
	}
	end := delivery.cancel
	delivery.cancel = func(err error) { end(err); cancel(err) }
	return delivery, nil
}

// prove hashes the staged bytes, from the first on, as they arrive and returns the proof once all are there.
func (x *fill) prove(ctx context.Context) (store.Proof, error) {
	pooled := batches.Get().(*[]byte)
	defer batches.Put(pooled)
	buffer := (*pooled)[:batchSize]
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
		n := min(x.frontier()-at, int64(len(buffer)))
		if _, err := x.file.ReadAt(buffer[:n], at); err != nil && err != io.EOF {
			x.discard() // what cannot be read is of no use to the next fill
			return store.Proof{}, &stagingError{err}
		}
		_, _ = verifier.Write(buffer[:n])
	}
}
