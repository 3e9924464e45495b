// Package fill makes one digest at a time: it downloads the blob once into a stage and lets any number of readers
// follow. Its invariant: no reader gets the last bytes of a blob before the whole of it has hashed to its digest, and
// no reader, slow, gone or first, has a say in the pace or the fate of the download.
//
// A fill is a staged file with few writers and many readers. Its conductor decides which runs of bytes are missing and
// has workers bring them, from a [Source] into the file; the verifier and the clients wait for what they need and read the
// file. Nothing is teed. When upstream breaks off, it is asked again from where it stopped. When the bytes are verified
// the tail is given out at once, and the commit to the store follows behind. A blob of which only parts are wanted is
// filled in those parts, and completed when somebody wants the whole, or a share of it has been read.
//
// Package fill does not know who may read what: a caller brings a [Source] that it may use, and joins only with a
// grant of its own. It speaks no HTTP.
package fill

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// Withheld is how much of the end of a body is kept back until its digest matches.
const Withheld = 64 << 10

// Source delivers the bytes of a digest from one registry, as one identity. It is safe for concurrent use. Its errors
// may have a method Permanent() bool, which says that asking again changes nothing, and a method RetryAfter()
// time.Duration, which says when to.
type Source interface {
	// Key tells sources apart: those of one key succeed and fail alike, so one is asked in the name of all.
	Key() string
	// Origin names where the bytes come from, for several keys perhaps, and means the same to a later process.
	Origin() string
	// Fetch asks for the bytes from start up to end, an end of -1 meaning the last one. A source that cannot deliver a
	// part delivers the whole. Each call asks the registry anew: what it redirects to may have expired. Where nothing
	// follows start, the error is an [*EndError].
	Fetch(ctx context.Context, start, end int64) (*Delivery, error)
}

// Delivery is a source's answer.
type Delivery struct {
	Body  io.ReadCloser
	Start int64 // offset of the first byte of Body: what was asked for, or 0
	Size  int64 // of the whole blob; -1 where upstream does not say
	// Ranges says that upstream delivers parts when asked to.
	Ranges bool

	cancel context.CancelCauseFunc
}

// Config has what Fills needs. All but Store may be left out.
type Config struct {
	Store      store.Store
	Log        *slog.Logger
	Registerer prometheus.Registerer
	// Verified is told which source's bytes have been found to be the digest's, before anybody gets the last of them. It is
	// not called where the bytes came from more than one origin.
	Verified func(d oci.Digest, src Source)

	// Retries is how often a broken download is taken up again without progress before it fails; 0 means 5.
	Retries int
	// Backoff is the pause before the first such try, doubled for each further one; 0 means 200 ms.
	Backoff time.Duration

	// Connections is over how many a large blob may be fetched at once, where that is faster; 0 means 8, 1 never.
	Connections int
	// SpareConnections bounds those over all fills, beyond the first of each: what a large blob takes must be left of
	// what a registry grants to us all. 0 means 32.
	SpareConnections int
	// ConnectionsTo is Connections for one source, where it has a value of its own; 0 means that it has none, and nil that
	// no source has.
	ConnectionsTo func(src Source) int

	// Share of a blob, from 0 to 1, after which the rest of one that is read in parts is fetched too; 0 means 0.5.
	Share float64

	// FinishShare is the share of a blob, from 0 to 1, that must be there for its fill to go on once the last reader has
	// left; 0 means that every fill of a whole blob is finished, as the nginx originals do. One that has no more than
	// FinishLeft bytes to go is finished too. What is stopped stays staged, and the next reader's fill takes it up.
	FinishShare float64
	// FinishLeft is how few bytes are always worth finishing; 0 means 4 MiB, less than 0 that none are.
	FinishLeft int64
}

// Fills has the fills in progress. It is safe for concurrent use.
type Fills struct {
	cfg     Config
	metrics *metrics
	spare   chan struct{} // has a value for each connection of a fill beyond its first
	again   *rate.Limiter // of tries that follow a try that brought nothing
	ctx     context.Context
	end     context.CancelCauseFunc
	wg      sync.WaitGroup

	mu     sync.Mutex // guards the fields that follow; taken before fill.mu, never held across I/O
	active map[oci.Digest]*fill
	undone map[oci.Digest]undone // what became of the last fill, where that was not a blob
}

// undone is a fill that has ended without a blob.
type undone struct {
	mistaken bool  // it was not what its name says
	size     int64 // of the blob, of which something may be staged; -1 if that is not known
}

// maxUndone bounds the digests that are remembered so.
const maxUndone = 1024

// ErrDraining is why a fill ends when the process does.
var ErrDraining = errors.New("the proxy is shutting down")

// New returns an empty set of fills.
func New(cfg Config) *Fills {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct{ to, value *int }{{&cfg.Retries, new(5)}, {&cfg.Connections, new(8)}, {&cfg.SpareConnections, new(32)}} {
		if *d.to == 0 {
			*d.to = *d.value
		}
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = 200 * time.Millisecond
	}
	if cfg.Share == 0 {
		cfg.Share = 0.5
	}
	if cfg.FinishLeft == 0 {
		cfg.FinishLeft = 4 << 20
	}
	f := &Fills{
		cfg: cfg, metrics: newMetrics(cfg.Registerer), spare: make(chan struct{}, cfg.SpareConnections),
		again:  rate.NewLimiter(rate.Every(time.Second), 32),
		active: map[oci.Digest]*fill{}, undone: map[oci.Digest]undone{},
	}
	f.ctx, f.end = context.WithCancelCause(context.Background())
	return f
}

// Join returns a reader of the blob, starting the fill if none is in progress. What the caller will read first, as far
// as it knows, is want; an End of -1 means the whole. Join returns when the size of the blob is known, or that it never
// will be. The reader lives until it is closed or ctx ends.
//
// It reports whether the caller leads: all that the reader gives out comes from the caller's own source. It ends with an
// error before it gives out anything else. A caller that does not lead must not be given a byte without a grant.
//
// The error is the source's own, or matches [store.ErrNoSpace] where nothing can be stored.
func (f *Fills) Join(ctx context.Context, d oci.Digest, src Source, want store.Extent) (r *Reader, leads bool, err error) {
	for {
		x, w, err := f.enlist(d, src, want)
		if err != nil {
			return nil, false, err
		}
		if w == nil { // it has ended: the next begins when its file is closed
			if err := x.settled(ctx); err != nil {
				return nil, false, err
			}
			continue
		}
		err = x.wait(ctx, func() bool { return x.ready || w.err != nil })
		if err == nil {
			leads, err = x.admit(w)
		}
		if err != nil {
			x.leave()
			return nil, false, err
		}
		return f.reader(ctx, x, src, leads), leads, nil
	}
}

// Progress is what is known of a blob that is being filled.
type Progress struct {
	Size     int64
	Origin   string // of all its bytes; empty where there are several, or it is not known
	Verified bool   // all of it is there and is the digest's
}

// Look is how far the fill of a blob has come, once its size is known.
func (f *Fills) Look(d oci.Digest) (p Progress, ok bool) {
	f.mu.Lock()
	x := f.active[d]
	f.mu.Unlock()
	if x == nil {
		return p, false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return Progress{x.size, x.origin, x.verified}, x.ready && x.size >= 0 && x.err == nil
}

// InProgress is the number of fills.
func (f *Fills) InProgress() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.active)
}

// Close ends all fills, whose readers fail with [ErrDraining], and waits for them.
func (f *Fills) Close() {
	f.mu.Lock()
	f.end(ErrDraining) // under the lock: no fill starts after it
	f.mu.Unlock()
	f.wg.Wait()
}

// enlist makes the caller a waiter of the digest's fill. The waiter is nil if that fill has ended.
func (f *Fills) enlist(d oci.Digest, src Source, want store.Extent) (x *fill, w *waiter, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := context.Cause(f.ctx); err != nil {
		return nil, nil, err
	}
	x = f.active[d]
	if x != nil {
		return x, x.enlist(src, want), nil
	}
	x = newFill(d, f.cfg.Share, f.metrics)
	f.active[d] = x
	w = x.enlist(src, want)
	f.wg.Go(func() { f.run(x) })
	return x, w, nil
}
