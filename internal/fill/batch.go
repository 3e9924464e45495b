package fill

import (
	"context"
	"sync"
	"time"

	"container-registry-proxy/internal/store"
)

const (
	// batchSize is what is written at a time where upstream is fast: enough that system calls and wake-ups are cheap
	// beside the copy, and no more than stays in a core's cache until it is hashed. TLS delivers 16 KiB at a time.
	batchSize = 128 << 10
	// batchSpace leaves room to receive in while a batch is almost full.
	batchSpace = batchSize + 32<<10
	// batchTime is for how long bytes may wait for more to come, in front of batchReaders; the more there are, up to
	// batchMost times as many, the longer: to wake them all costs more than any of them gains by less.
	batchTime    = 10 * time.Millisecond
	batchReaders = 32
	batchMost    = 10
)

var batches = sync.Pool{New: func() any { b := make([]byte, batchSpace); return &b }}

// batch gathers what a connection brings into writes that are worth their cost. Where upstream is slow, a timer writes
// what there is.
type batch struct {
	fill   *fill
	worker *worker
	file   store.Stage
	timer  *time.Timer
	buffer *[]byte

	mu          sync.Mutex    // guards the fields that follow, and orders the writes: the worker's and the timer's
	first, last int           // in buffer: received and not yet written
	waited      time.Duration // for what is to be written
	waiting     bool          // the timer runs
	written     bool          // something has been
	closed      bool
	err         error
}

func newBatch(x *fill, w *worker) *batch {
	b := &batch{fill: x, worker: w, file: x.file.(store.Stage), buffer: batches.Get().(*[]byte)}
	b.timer = time.AfterFunc(time.Hour, b.late)
	b.timer.Stop()
	return b
}

// room is where to receive the next bytes, or nil if the worker is at the end of its run.
func (b *batch) room(ctx context.Context) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, end := b.fill.run(b.worker)
	if end >= 0 && at+int64(b.last-b.first) >= end {
		if err := b.write(); err != nil {
			return nil, err
		}
		if !b.fill.extend(ctx, b.worker) {
			return nil, nil
		}
		at, end = b.fill.run(b.worker)
	}
	if b.first == b.last {
		b.first, b.last = 0, 0
	}
	space := (*b.buffer)[b.last:]
	if left := end - at - int64(b.last-b.first); end >= 0 && left < int64(len(space)) {
		space = space[:left]
	}
	return space, b.err
}

// add takes note of n bytes received in room, and how long they were waited for. Nothing is kept back if they are the last.
func (b *batch) add(n int, waited time.Duration, last bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last += n
	b.waited += waited
	full := b.last-b.first >= batchSize || b.last == len(*b.buffer)
	if full || last || !b.written {
		return b.write()
	}
	if n > 0 && !b.waiting {
		b.waiting = true
		b.timer.Reset(batchTime * time.Duration(min(max(b.fill.readers()/batchReaders, 1), batchMost)))
	}
	return b.err
}

// write brings what there is into the file. It is called under mu.
func (b *batch) write() error {
	if b.err != nil || b.first == b.last {
		return b.err
	}
	if b.waiting {
		b.timer.Stop()
		b.waiting = false
	}
	at, _ := b.fill.run(b.worker)
	bytes := (*b.buffer)[b.first:b.last]
	if _, err := b.file.WriteAt(bytes, at); err != nil {
		b.err = &stagingError{err}
		return b.err
	}
	b.first, b.written = b.last, true
	b.fill.brought(b.worker, int64(len(bytes)), b.waited)
	b.waited = 0
	return nil
}

// late is the timer's.
func (b *batch) late() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || !b.waiting {
		return
	}
	b.waiting = false
	if err := b.write(); err != nil {
		b.worker.cancel(err) // the worker waits for upstream
	}
}

func (b *batch) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.timer.Stop()
	b.closed = true
	batches.Put(b.buffer)
}
