package fill

import (
	"context"
	"errors"
	"slices"
	"time"

	"container-registry-proxy/internal/store"
)

const (
	// near is how far behind a reader's next byte a worker may be and still be waited for: asking anew costs about a
	// round trip or two, in which a connection worth having brings this much.
	near = 1 << 20
	// minRun is the least that is worth a request of its own. It is more than a worker has received and not yet written,
	// so that what is given to another is never there already.
	minRun = 512 << 10
	// maxWorkers bounds the connections of one fill, those for readers far ahead among them.
	maxWorkers = 16
	// takerPatience is how long a worker waits for the first who is to bring a part, before it goes on by itself.
	takerPatience = 2 * time.Second
)

// errWhole ends the conductor's work: all bytes are there.
var errWhole = errors.New("the blob is whole")

// plan is how the rest of a blob is to be brought.
type plan struct {
	connections int
	run         int64 // for how many bytes a connection is asked where there are several
	spare       chan struct{}

	paused         bool // nobody is asked
	cautious       bool // one connection at a time is opened
	worthFinishing func(there, size int64) bool
}

// takeUp makes the first delivery, which was asked for, a worker, or returns nil if it brings nothing that is missing.
func (x *fill) takeUp(src Source, asked store.Extent, first *Delivery) *worker {
	x.mu.Lock()
	defer x.mu.Unlock()
	start, end := x.have.End(first.Start), asked.End
	if first.Start < asked.Start { // it delivers the whole
		x.noRanges, x.whole = true, true
		end = -1
	}
	if start > first.Start && !x.noRanges || x.size >= 0 && start >= x.size {
		return nil
	}
	w := x.hire(start, x.gapEnd(start, end))
	w.source, w.limit = src, end
	x.comesFrom(src.Origin())
	return w
}

// assign returns a worker for the run of bytes that is wanted next and that nobody brings, or nil if there is none. A
// reader that waits comes first, then the whole blob from its beginning if anybody wants it, then a share of the longest
// run, while fewer connections are at work than are planned. The error is errWhole or errAbandoned where there is
// nothing left to do.
func (x *fill) assign(p plan) (*worker, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.size >= 0 && x.have.End(0) == x.size && len(x.workers) == 0 {
		return nil, errWhole
	}
	idle := !x.whole && len(x.demands) == 0 && len(x.workers) == 0
	if x.users <= 1 && (idle || !p.worthFinishing(x.have.Total(), x.size)) {
		x.ended = true
		return nil, errAbandoned
	}
	if p.paused || p.cautious && len(x.workers) > 0 {
		return nil, nil
	}
	w := x.pick(p)
	if w == nil {
		return nil, nil
	}
	w.source = x.sources[0]
	x.comesFrom(w.source.Origin())
	if !x.mixed && w.source.Key() != x.leader.src.Key() {
		x.mixed = true
		x.changed()
	}
	return w, nil
}

// pick is assign's choice. It is called under mu.
func (x *fill) pick(p plan) *worker {
	if x.size < 0 || x.noRanges {
		if at := x.have.End(0); len(x.workers) == 0 && at != x.size && (x.whole || len(x.demands) > 0) {
			return x.hire(at, x.size)
		}
		return nil
	}
	if len(x.workers) >= maxWorkers {
		return nil
	}
	for s := range x.demands {
		if at := x.have.End(s.at); at < s.until(x.size) && !x.soon(at) {
			end := s.until(x.size)
			if x.whole {
				end = p.bound(at, x.size)
			}
			return x.hire(at, x.gapEnd(at, end))
		}
	}
	if !x.whole || len(x.workers) >= p.connections {
		return nil
	}
	at, missing := x.orphan()
	switch {
	case missing && len(x.workers) == 0:
		return x.hire(at, x.gapEnd(at, p.bound(at, x.size)))
	case !x.ranges || !p.takeSpare():
		return nil
	case missing:
		return x.spare(x.hire(at, x.gapEnd(at, p.bound(at, x.size))), p)
	}
	return x.spare(x.divide(p.run), p)
}

// bound is where a run from at on ends that may go on until end.
func (p plan) bound(at, end int64) int64 {
	if p.connections > 1 && p.run > 0 {
		return min(end, at+p.run)
	}
	return end
}

// takeSpare takes one of the connections that all fills share.
func (p plan) takeSpare() bool {
	select {
	case p.spare <- struct{}{}:
		return true
	default:
		return false
	}
}

// spare marks w, if there is one, as holding the spare connection that has been taken. It is called under mu.
func (x *fill) spare(w *worker, p plan) *worker {
	if w == nil {
		<-p.spare
		return nil
	}
	w.spare = true
	return w
}

// soon reports whether a worker brings the byte at off without much delay. It is called under mu.
func (x *fill) soon(off int64) bool {
	for w := range x.workers {
		if w.covers(off) && off-w.at <= near {
			return true
		}
	}
	return false
}

// orphan returns the first missing byte that no worker is on its way to. It is called under mu.
func (x *fill) orphan() (int64, bool) {
	for at := x.have.End(0); at < x.size; {
		on := at
		for w := range x.workers {
			if w.covers(at) {
				on = w.end
			}
		}
		if on == at {
			return at, true
		}
		at = x.have.End(on)
	}
	return 0, false
}

// gapEnd is where a run that begins at start ends: at limit, at bytes that are there, or at another worker's. A worker
// that is on its way to start, but far from it, gives up what lies behind start. It is called under mu.
func (x *fill) gapEnd(start, limit int64) int64 {
	if x.size >= 0 && (limit < 0 || limit > x.size) {
		limit = x.size
	}
	nearer := func(at int64) {
		if at > start && (limit < 0 || at < limit) {
			limit = at
		}
	}
	for _, e := range x.have {
		nearer(e.Start)
	}
	for w := range x.workers {
		nearer(w.at)
		if w.covers(start) {
			w.end = start // what it gives up behind limit is an orphan, for the next call
		}
	}
	return limit
}

// divide gives the part of the longest run that follows its next bytes to a new worker, if that is worth a connection;
// what lies behind that part is left to others. So the blob grows from its beginning, where its readers are. It is
// called under mu.
func (x *fill) divide(run int64) *worker {
	var longest *worker
	for w := range x.workers {
		if longest == nil || w.end-w.at > longest.end-longest.at {
			longest = w
		}
	}
	if longest == nil || longest.end-longest.at < 2*minRun {
		return nil
	}
	part := max(min(run, (longest.end-longest.at)/2), minRun)
	start := longest.at + part
	end := min(longest.end, start+part)
	longest.end = start
	return x.hire(start, end)
}

// hire adds a worker. It is called under mu.
func (x *fill) hire(start, end int64) *worker {
	w := &worker{start: start, at: start, end: end, limit: end}
	x.workers[w] = struct{}{}
	return w
}

// retire takes a worker off the list and reports whether it has made progress.
func (x *fill) retire(w *worker, spare chan struct{}) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.workers, w)
	w.end = w.at
	x.changed()
	if w.spare {
		<-spare
	}
	return isProgress(w.at-w.start, x.size)
}

// isProgress reports whether a connection has brought so much of a blob that its break is no failure.
func isProgress(brought, size int64) bool {
	return brought >= 256<<10 || brought > 0 && 10*brought >= size
}

// progressed reports whether a worker that was started since so many failures has made progress.
func (x *fill) progressed(round int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for w := range x.workers {
		if w.round == round && isProgress(w.at-w.start, x.size) {
			return true
		}
	}
	return false
}

// extend lets a worker that is at the end of its run, and whose delivery goes on, bring what follows if nobody else
// does. It reports whether there is more to bring.
func (x *fill) extend(ctx context.Context, w *worker) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if w.end < 0 || w.at < w.end {
		return true
	}
	x.awaitTaker(ctx, w)
	if !x.whole || w.limit >= 0 && w.end >= w.limit || w.end >= x.size || x.have.End(w.end) > w.end {
		return false
	}
	for o := range x.workers {
		if o != w && o.covers(w.end) {
			return false
		}
	}
	w.end = x.gapEnd(w.end, w.limit)
	return w.at < w.end
}

// awaitTaker waits, where upstream has not shown yet that it delivers parts, for the one that has taken what follows the
// worker's run. If it turns out to get nothing, or nothing soon, the worker can go on: else what its connection is about
// to bring would be asked for again. It is called under mu.
func (x *fill) awaitTaker(ctx context.Context, w *worker) {
	if x.parts || w.limit >= 0 && w.end >= w.limit {
		return
	}
	var taker *worker
	for o := range x.workers {
		if o != w && !o.begun && o.covers(w.end) {
			taker = o
		}
	}
	if taker == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, takerPatience)
	defer cancel()
	if x.waitLocked(ctx, func() bool { return taker.begun || !taker.covers(w.end) }) != nil {
		taker.end, x.ranges = taker.at, false
		taker.cancel(errLate)
	}
}

// rangesIgnored takes note that a worker that was to bring a part is offered the whole, and gives its run back. It does
// neither where no other is at work: the whole serves then.
func (x *fill) rangesIgnored(w *worker) (others bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.noRanges, x.whole = true, true
	if len(x.workers) == 1 {
		w.limit = -1
		return false
	}
	w.end = w.at
	x.changed()
	return true
}

// run is what a worker has yet to bring.
func (x *fill) run(w *worker) (at, end int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return w.at, w.end
}

// question is what a worker asks for.
func (x *fill) question(w *worker) (start, end int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	w.limit = w.end
	return w.at, w.end
}

// brought publishes that a worker has brought its next n bytes, for which it was waited so long.
func (x *fill) brought(w *worker, n int64, waited time.Duration) {
	x.update(func() {
		x.have.Add(w.at, w.at+n)
		w.at += n
		x.received += n
		x.waited += waited
		x.completeAfterShare()
	})
	x.metrics.received.Add(float64(n))
}

// begun takes note that bytes come to a worker that are missing, in a delivery that begins at start.
func (x *fill) begun(w *worker, start int64) {
	x.update(func() {
		w.begun, w.seen, w.seenAt = true, w.at, time.Now()
		x.parts = x.parts || start > 0
	})
}

// dropSource gives up a source, and reports whether another is left.
func (x *fill) dropSource(src Source) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sources = slices.DeleteFunc(x.sources, func(s Source) bool { return s.Key() == src.Key() })
	return len(x.sources) > 0
}

// source is the one that is asked next.
func (x *fill) source() Source {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sources[0]
}

// sample is the state of a download at an instant.
type sample struct {
	received, left    int64
	waited            time.Duration // for all connections together
	working, starting int           // connections, and those of them that have not delivered yet
}

func (x *fill) sample() sample {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := sample{received: x.received, waited: x.waited, working: len(x.workers)}
	for w := range x.workers {
		if !w.begun {
			s.starting++
		}
	}
	if x.size >= 0 && x.whole && !x.noRanges {
		s.left = x.size - x.have.Total()
	}
	return s
}

// dismissSlow ends the workers that have had patience enough.
func (x *fill) dismissSlow(now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for w := range x.workers {
		if !w.begun || now.Sub(w.seenAt) < patience {
			continue
		}
		if w.at-w.seen < minRate*int64(patience/time.Second) {
			w.cancel(errSlow)
		}
		w.seen, w.seenAt = w.at, now
	}
}
