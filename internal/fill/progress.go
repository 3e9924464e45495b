package fill

import (
	"context"
	"errors"
	"io"
	"sync"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// errNoSource ends a fill whose every source has failed; each waiter has been told its own source's reason.
var errNoSource = errors.New("no source delivers")

// staged is the file that the readers of a fill follow.
type staged interface {
	io.ReaderAt
	Close() error
	Discard() error
}

// fill is the progress of one digest. Its writer is the goroutine of [Fills.run]; everybody else waits and reads.
type fill struct {
	digest oci.Digest

	mu       sync.Mutex    // guards the fields that follow; never held across I/O
	changed  chan struct{} // closed at the next change that somebody waits for
	awaited  bool          // somebody waits on changed
	waiters  []*waiter
	users    int  // readers and waiters, and the writer itself
	ready    bool // file and size are set
	file     staged
	size     int64 // -1 until known
	have     extents
	verified bool
	discards bool // the file is to be removed when the last user leaves
	ended    bool
	err      error // why it ended before it was verified
}

// waiter is a caller of Join: its source may be the next to be asked.
type waiter struct {
	src Source
	err error // guarded by fill.mu
}

func newFill(d oci.Digest) *fill {
	return &fill{digest: d, size: -1, users: 1, changed: make(chan struct{})}
}

// enlist adds a waiter, or returns nil if the fill has ended.
func (x *fill) enlist(src Source) *waiter {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return nil
	}
	w := &waiter{src: src}
	x.waiters = append(x.waiters, w)
	x.users++
	return w
}

// verdict is why a waiter's source failed, if it did.
func (x *fill) verdict(w *waiter) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return w.err
}

// wait blocks until cond, which is evaluated under mu, holds.
func (x *fill) wait(ctx context.Context, cond func() bool) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for !cond() {
		changed := x.changed
		x.awaited = true
		x.mu.Unlock()
		select {
		case <-changed:
			x.mu.Lock()
		case <-ctx.Done():
			x.mu.Lock()
			return context.Cause(ctx)
		}
	}
	return nil
}

// update changes the state under mu and wakes everybody who waits.
func (x *fill) update(change func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	change()
	if x.awaited {
		close(x.changed)
		x.changed, x.awaited = make(chan struct{}), false
	}
}

// begin publishes the file, the size as far as it is known, and what of it is there already.
func (x *fill) begin(file staged, size int64, have []store.Extent) {
	x.update(func() {
		x.file, x.size, x.ready, x.waiters = file, size, true, nil
		for _, e := range have {
			x.have.add(e.Start, e.End)
		}
	})
}

// wrote publishes that the bytes from start up to end are in the file.
func (x *fill) wrote(start, end int64) { x.update(func() { x.have.add(start, end) }) }

// sized publishes the size, for a blob whose registry did not say it beforehand.
func (x *fill) sized(size int64) { x.update(func() { x.size = size }) }

// verify publishes that the bytes are the digest's.
func (x *fill) verify() { x.update(func() { x.verified = true }) }

// discard has the file removed once its last reader has left.
func (x *fill) discard() { x.update(func() { x.discards = true }) }

// finish ends the fill and the writer's use of it. A verified fill has no error.
func (x *fill) finish(err error) {
	x.update(func() {
		x.ended = true
		if !x.verified {
			x.err = err
		}
		for _, w := range x.waiters {
			if w.err == nil {
				w.err = err
			}
		}
	})
	x.leave()
}

// leave ends one user's use; the last one closes the file.
func (x *fill) leave() {
	x.mu.Lock()
	x.users--
	last, file, discards := x.users == 0, x.file, x.discards
	x.mu.Unlock()
	if !last || file == nil {
		return
	}
	if discards {
		_ = file.Discard() // it is unverified and unseen: at worst it takes room until the store sweeps
		return
	}
	_ = file.Close()
}

// frontier is the end of the bytes that are there from the first one on.
func (x *fill) frontier() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.have.end(0)
}

// total is the size, -1 if it is not known yet.
func (x *fill) total() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.size
}
