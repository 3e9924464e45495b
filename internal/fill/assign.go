package fill

import (
	"errors"

	"container-registry-proxy/internal/store"
)

const (
	// near is how far behind a reader's next byte a worker may be and still be waited for: asking anew costs about a
	// round trip or two, in which a connection worth having brings this much.
	near = 1 << 20
	// minSplit is the least that is left of a run when it is shared with another connection.
	minSplit = 4 << 20
	// maxWorkers bounds the connections of one fill, those for readers far ahead among them.
	maxWorkers = 16
)

// errWhole ends the conductor's work: all bytes are there.
var errWhole = errors.New("the blob is whole")

// takeUp makes the first delivery a worker, or returns nil if it brings nothing that is missing.
func (x *fill) takeUp(src Source, want store.Extent, first *Delivery) *worker {
	x.mu.Lock()
	defer x.mu.Unlock()
	start, end := want.Start, want.End
	if first.Start != start { // it was asked for a part and delivers the whole
		x.noRanges, x.whole = true, true
		start, end = first.Start, -1
	}
	if x.have.End(start) > start || start == x.size {
		return nil
	}
	w := x.hire(start, x.gapEnd(start, end))
	w.source = src
	return w
}

// assign returns a worker for the run of bytes that is wanted next and that nobody brings, or nil if there is none. A
// reader that waits comes first, then the whole blob from its beginning if anybody wants it, then a share of the longest
// run, while fewer than connections are at work. The error is errWhole or errAbandoned where there is nothing left to do.
func (x *fill) assign(connections int) (*worker, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.size >= 0 && x.have.End(0) == x.size && len(x.workers) == 0 {
		return nil, errWhole
	}
	if !x.whole && len(x.demands) == 0 && x.users <= 1 && len(x.workers) == 0 {
		x.ended = true
		return nil, errAbandoned
	}
	w := x.pick(connections)
	if w != nil {
		w.source = x.sources[0]
	}
	return w, nil
}

// pick is assign's choice. It is called under mu.
func (x *fill) pick(connections int) *worker {
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
		if at := x.have.End(s.needs); at < s.until(x.size) && !x.soon(at) {
			end := s.until(x.size)
			if x.whole {
				end = x.size
			}
			return x.hire(at, x.gapEnd(at, end))
		}
	}
	if !x.whole {
		return nil
	}
	if at, ok := x.orphan(); ok {
		return x.hire(at, x.gapEnd(at, x.size))
	}
	if x.ranges && len(x.workers) < connections {
		return x.split()
	}
	return nil
}

// soon reports whether a worker brings the byte at off without much delay. It is called under mu.
func (x *fill) soon(off int64) bool {
	for w := range x.workers {
		if w.at <= off && off < w.end && off-w.at <= near {
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
			if w.at <= at && at < w.end {
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
	if x.size < 0 {
		return -1
	}
	if limit < 0 || limit > x.size {
		limit = x.size
	}
	for _, e := range x.have {
		if e.Start > start {
			limit = min(limit, e.Start)
			break
		}
	}
	for w := range x.workers {
		if w.at > start {
			limit = min(limit, w.at)
		}
	}
	for w := range x.workers {
		if w.at <= start && start < w.end {
			w.end = start // what it gives up behind limit is an orphan, for the next call
		}
	}
	return limit
}

// split takes the second half of the longest run for a new worker, if that is worth a connection. It is called under mu.
func (x *fill) split() *worker {
	var longest *worker
	for w := range x.workers {
		if longest == nil || w.end-w.at > longest.end-longest.at {
			longest = w
		}
	}
	if longest == nil || longest.end-longest.at < 2*minSplit {
		return nil
	}
	middle, end := longest.at+(longest.end-longest.at)/2, longest.end
	longest.end = middle
	return x.hire(middle, end)
}

// hire adds a worker. It is called under mu.
func (x *fill) hire(start, end int64) *worker {
	w := &worker{start: start, at: start, end: end}
	x.workers[w] = struct{}{}
	return w
}

// retire takes a worker off the list and reports whether it has brought anything.
func (x *fill) retire(w *worker) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.workers, w)
	return w.at > w.start
}

// run is what a worker has yet to bring.
func (x *fill) run(w *worker) (at, end int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return w.at, w.end
}

// alone reports whether no other worker is at work.
func (x *fill) alone(w *worker) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.workers) == 1
}

// brought publishes that a worker has brought its next n bytes.
func (x *fill) brought(w *worker, n int64) {
	x.update(func() {
		x.have.Add(w.at, w.at+n)
		w.at += n
		x.received += n
		if !x.whole && x.size > 0 && float64(x.received) >= x.share*float64(x.size) {
			x.whole = true
		}
	})
}

// withoutRanges has the rest brought over one connection: the one that is at work goes on to the end.
func (x *fill) withoutRanges() {
	x.update(func() {
		x.noRanges, x.whole = true, true
		for w := range x.workers {
			w.end = x.size
		}
	})
}

// dropSource gives up a source, and reports whether another is left.
func (x *fill) dropSource(src Source) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, s := range x.sources {
		if s.Key() == src.Key() {
			x.sources = append(x.sources[:i:i], x.sources[i+1:]...)
			break
		}
	}
	return len(x.sources) > 0
}

// progress is how many bytes have been received so far and how many are left.
func (x *fill) progress() (received, left int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.size < 0 || !x.whole {
		return x.received, 0
	}
	return x.received, x.size - x.have.Total()
}

// wake has the conductor look again.
func (x *fill) wake() {
	select {
	case x.kick <- struct{}{}:
	default: // it has been told
	}
}
