package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

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
	digest  oci.Digest
	share   float64       // of the bytes, after which the rest is fetched too
	kick    chan struct{} // tells the conductor to look again
	gone    chan struct{} // closed when the next fill of the digest may begin
	metrics *metrics

	mu       sync.Mutex // guards the fields that follow; never held across I/O
	waits    []*wait
	users    int // readers and waiters, and the fill's own goroutine
	waiters  []*waiter
	sources  []Source // one of each key, best first
	workers  map[*worker]struct{}
	demands  map[*section]struct{} // readers that wait for bytes
	whole    bool                  // somebody wants all of it, so the rest is fetched unasked
	ranges   bool                  // upstream has said that it delivers parts
	parts    bool                  // upstream has shown that it does
	noRanges bool                  // upstream has shown that it does not
	ready    bool                  // file and size are set
	file     staged
	reading  int   // reads of file in progress
	closing  bool  // file is not to be read any more
	size     int64 // -1 until known
	have     store.Extents
	received int64         // bytes that came from upstream
	waited   time.Duration // for them, over all connections
	leader   *waiter       // whose source delivered first; nil where none had to
	mixed    bool          // not all bytes come from that source
	origin   string        // of all bytes; empty where there are several, or it is not known
	verified bool
	discards bool // the file is to be removed, not left for the next fill
	ended    bool
	err      error // why it ended before it was verified
}

// waiter is a caller of Join: its source may be the next to be asked.
type waiter struct {
	src  Source
	want store.Extent // what it needs first; an End of -1 means the whole
	err  error        // guarded by fill.mu
}

// wait is somebody who waits.
type wait struct {
	over  func() bool   // evaluated under fill.mu
	woken chan struct{} // closed once over has held
}

func newFill(d oci.Digest, share float64, m *metrics) *fill {
	return &fill{
		digest: d, share: share, metrics: m, size: -1, users: 1, kick: make(chan struct{}, 1), gone: make(chan struct{}),
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
	if !x.ready {
		x.waiters = append(x.waiters, w)
	}
	x.users++
	x.whole = x.whole || want.End < 0
	if !slices.ContainsFunc(x.sources, func(s Source) bool { return s.Key() == src.Key() }) {
		x.sources = append(x.sources, src)
	}
	x.wake()
	return w
}

// admit says whether a waiter may read, and whether all that it will read comes from its own source.
func (x *fill) admit(w *waiter) (leads bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return w == x.leader && !x.mixed, w.err
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

// wait blocks until cond, which is evaluated under mu and changes nothing, holds.
func (x *fill) wait(ctx context.Context, cond func() bool) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.waitLocked(ctx, cond)
}

// waitLocked is wait, called and returning with mu held.
func (x *fill) waitLocked(ctx context.Context, cond func() bool) error {
	for !cond() {
		w := &wait{over: cond, woken: make(chan struct{})}
		x.waits = append(x.waits, w)
		x.mu.Unlock()
		select {
		case <-w.woken:
			x.mu.Lock()
		case <-ctx.Done():
			x.mu.Lock()
			x.waits = slices.DeleteFunc(x.waits, func(o *wait) bool { return o == w })
			return context.Cause(ctx)
		}
	}
	return nil
}

// update changes the state under mu and wakes those whose wait is over. A thousand who wait for something else stay
// asleep: to look at each costs less than to wake it.
func (x *fill) update(change func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	change()
	x.changed()
}

// changed wakes those whose wait is over. It is called under mu.
func (x *fill) changed() {
	for i := 0; i < len(x.waits); {
		w := x.waits[i]
		if !w.over() {
			i++
			continue
		}
		close(w.woken)
		last := len(x.waits) - 1
		x.waits[i], x.waits[last] = x.waits[last], nil
		x.waits = x.waits[:last]
	}
}

// beginning is what a fill begins with.
type beginning struct {
	file     staged
	size     int64
	have     []store.Extent // what of it is there already
	leader   *waiter        // whose source delivers; nil where none needs to
	origin   string         // of what is there, and of what the leader's source delivers; empty if it is not one
	verified bool
}

// begin publishes the file.
func (x *fill) begin(b beginning) {
	x.update(func() {
		x.file, x.size, x.verified, x.ready, x.waiters = b.file, b.size, b.verified, true, nil
		x.have = append(store.Extents{}, b.have...)
		x.mixed, x.origin = b.leader == nil || len(b.have) > 0, b.origin
		x.leader = b.leader
		x.completeAfterShare()
	})
}

// resumed takes note of what an earlier fill has left. It is called before anybody else looks.
func (x *fill) resumed(size int64, have []store.Extent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.size, x.have = size, append(store.Extents{}, have...)
}

// missing is what a waiter wants first and is not there, up to the next bytes that are.
func (x *fill) missing(want store.Extent) (store.Extent, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	want.Start = x.have.End(want.Start)
	if next := x.have.Next(want.Start); next >= 0 && (want.End < 0 || next < want.End) {
		want.End = next
	}
	there := x.size >= 0 && want.Start >= x.size || want.End >= 0 && want.Start >= want.End
	return want, !there
}

// completeAfterShare has the rest brought once a share of it is there. It is called under mu.
func (x *fill) completeAfterShare() {
	if !x.whole && x.size > 0 && float64(x.have.Total()) >= x.share*float64(x.size) {
		x.whole = true
		x.wake()
	}
}

// sized publishes the size, for a blob whose registry did not say it beforehand.
func (x *fill) sized(size int64) { x.update(func() { x.size = size }) }

// verify publishes that the bytes are the digest's, and reports whether they are from one source.
func (x *fill) verify() { x.update(func() { x.verified = true }) }

// from is the origin of all bytes, empty if there is more than one.
func (x *fill) from() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.origin
}

// comesFrom takes note of an origin whose bytes will be written. It is called under mu.
func (x *fill) comesFrom(origin string) {
	if x.origin == "" || x.origin == origin {
		return
	}
	x.origin = ""
	if s, is := x.file.(store.Sourced); is {
		s.SetSource("")
	}
}

// discard has the file removed when it is closed.
func (x *fill) discard() { x.update(func() { x.discards = true }) }

// finish ends the fill: nobody joins any more, and nothing is brought. A verified fill has no error.
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
}

// untilUnread blocks until there is no reader left, and ends the fill at that very instant.
func (x *fill) untilUnread(ctx context.Context) {
	x.mu.Lock()
	_ = x.waitLocked(ctx, func() bool { return x.users == 1 })
	x.ended = true
	x.mu.Unlock()
}

// abandoned blocks until nobody waits any more, and ends the fill at that very instant. It returns false when ctx ends.
func (x *fill) abandoned(ctx context.Context) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.waitLocked(ctx, func() bool { return x.users <= 1 }) != nil {
		return false
	}
	x.ended = true
	return true
}

// shut closes the file, whoever reads it.
func (x *fill) shut() {
	x.update(func() { x.closing = true })
	_ = x.wait(context.Background(), func() bool { return x.reading == 0 }) // as long as a read from the disk takes
	x.close()
}

func (x *fill) close() {
	x.mu.Lock()
	file, discards := x.file, x.discards
	x.mu.Unlock()
	switch {
	case file == nil:
	case discards:
		_ = file.Discard() // it is unverified and unseen: at worst it takes room until the store sweeps
	default:
		_ = file.Close()
	}
}

// leave ends one user's use; the last one closes the file if it is open.
func (x *fill) leave() {
	last := false
	x.update(func() {
		x.users--
		last = x.users == 0 && !x.closing
	})
	x.wake()
	if last {
		x.close()
	}
}

// settled waits until the next fill of the digest may begin. It returns an error where the caller had better do without.
func (x *fill) settled(ctx context.Context) error {
	x.mu.Lock()
	err := x.err
	x.mu.Unlock()
	if errors.Is(err, store.ErrNoSpace) {
		return fmt.Errorf("fill %s: %w", x.digest, err)
	}
	select {
	case <-x.gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// readers is how many follow the fill.
func (x *fill) readers() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.users - 1
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

// wake has the conductor look again.
func (x *fill) wake() {
	select {
	case x.kick <- struct{}{}:
	default: // it has been told
	}
}
