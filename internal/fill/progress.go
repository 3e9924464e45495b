package fill

import (
	"context"
	"errors"
	"io"
	"slices"
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

// fill is the progress of one digest. Its writers are the workers of its [conductor]; everybody else waits and reads.
type fill struct {
	digest oci.Digest
	share  float64       // of the bytes, after which the rest is fetched too
	kick   chan struct{} // tells the conductor to look again

	mu       sync.Mutex    // guards the fields that follow; never held across I/O
	changed  chan struct{} // closed at the next change that somebody waits for
	awaited  bool          // somebody waits on changed
	users    int           // readers and waiters, and the conductor itself
	waiters  []*waiter
	sources  []Source // one of each key, best first
	workers  map[*worker]struct{}
	demands  map[*section]struct{} // readers that wait for bytes
	whole    bool                  // somebody wants all of it, so the rest is fetched unasked
	ranges   bool                  // upstream has said that it delivers parts
	noRanges bool                  // upstream has shown that it does not
	ready    bool                  // file and size are set
	file     staged
	size     int64 // -1 until known
	have     store.Extents
	received int64 // bytes that came from upstream
	verified bool
	discards bool // the file is to be removed when the last user leaves
	ended    bool
	err      error // why it ended before it was verified
}

// waiter is a caller of Join: its source may be the next to be asked.
type waiter struct {
	src  Source
	want store.Extent // what it needs first; an End of -1 means the whole
	err  error        // guarded by fill.mu
}

func newFill(d oci.Digest, share float64) *fill {
	return &fill{
		digest: d, share: share, size: -1, users: 1, changed: make(chan struct{}), kick: make(chan struct{}, 1),
		workers: map[*worker]struct{}{}, demands: map[*section]struct{}{},
	}
}

// enlist adds a waiter, or returns nil if the fill has ended.
func (x *fill) enlist(src Source, want store.Extent) *waiter {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended {
		return nil
	}
	w := &waiter{src: src, want: want}
	x.waiters = append(x.waiters, w)
	x.users++
	x.whole = x.whole || want.End < 0
	if !slices.ContainsFunc(x.sources, func(s Source) bool { return s.Key() == src.Key() }) {
		x.sources = append(x.sources, src)
	}
	x.wake()
	return w
}

// nextWaiter returns the first waiter whose source has not failed. With none left the fill takes no more.
func (x *fill) nextWaiter() *waiter {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, w := range x.waiters {
		if w.err == nil {
			return w
		}
	}
	x.ended = true
	return nil
}

// sourceFailed tells all waiters with a source of that key why it failed.
func (x *fill) sourceFailed(key string, err error) {
	x.update(func() {
		x.sources = slices.DeleteFunc(x.sources, func(s Source) bool { return s.Key() == key })
		for _, w := range x.waiters {
			if w.err == nil && w.src.Key() == key {
				w.err = err
			}
		}
	})
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
			x.have.Add(e.Start, e.End)
		}
	})
}

// sized publishes the size, for a blob whose registry did not say it beforehand.
func (x *fill) sized(size int64) { x.update(func() { x.size = size }) }

// verify publishes that the bytes are the digest's.
func (x *fill) verify() { x.update(func() { x.verified = true }) }

// discard has the file removed once its last reader has left.
func (x *fill) discard() { x.update(func() { x.discards = true }) }

// finish ends the fill and the conductor's use of it. A verified fill has no error.
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
	x.wake()
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
	return x.have.End(0)
}

// total is the size, -1 if it is not known yet.
func (x *fill) total() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.size
}
