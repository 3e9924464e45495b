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
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// Withheld is how much of the end of a body is kept back until its digest matches.
const Withheld = 64 << 10

// Source delivers the bytes of a digest from one registry, as one identity. It is safe for concurrent use.
type Source interface {
	// Key tells sources apart: those of one key succeed and fail alike, so one is asked in the name of all.
	Key() string
	// Fetch asks for the bytes from start up to end, an end of -1 meaning the last one. A source that cannot deliver a
	// part delivers the whole.
	Fetch(ctx context.Context, start, end int64) (*Delivery, error)
}

// Delivery is a source's answer.
type Delivery struct {
	Body  io.ReadCloser
	Start int64 // offset of the first byte of Body: what was asked for, or 0
	Size  int64 // of the whole blob; -1 where upstream does not say
	// Ranges says that upstream delivers parts when asked to.
	Ranges bool
}

// Config has what Fills needs. Log may be nil.
type Config struct {
	Store store.Store
	Log   *slog.Logger
	// Verified, if not nil, is told which source's bytes have been found to be the digest's.
	Verified func(d oci.Digest, src Source)
	// Retries is how often a broken download is taken up again without a single new byte before it fails; 0 means 5.
	Retries int
	// Backoff is the pause before the first such try, doubled for each further one; 0 means 200 ms.
	Backoff time.Duration
	// Connections is over how many a large blob may be fetched at once, where that is faster; 0 means 8, 1 never.
	Connections int
	// Share of a blob, from 0 to 1, after which the rest of one that is read in parts is fetched too; 0 means 0.5.
	Share float64
}

// Fills has the fills in progress. It is safe for concurrent use.
type Fills struct {
	cfg Config
	ctx context.Context
	end context.CancelCauseFunc
	wg  sync.WaitGroup

	mu     sync.Mutex // guards active; never held across I/O
	active map[oci.Digest]*fill
}

// ErrDraining is why a fill ends when the process does.
var ErrDraining = errors.New("the proxy is shutting down")

// New returns an empty set of fills.
func New(cfg Config) *Fills {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Retries == 0 {
		cfg.Retries = 5
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = 200 * time.Millisecond
	}
	if cfg.Connections == 0 {
		cfg.Connections = 8
	}
	if cfg.Share == 0 {
		cfg.Share = 0.5
	}
	f := &Fills{cfg: cfg, active: map[oci.Digest]*fill{}}
	f.ctx, f.end = context.WithCancelCause(context.Background())
	return f
}

// Join returns a reader of the blob, starting the fill if none is in progress, and reports whether it started one. What
// the caller will read first, as far as it knows, is want; an End of -1 means the whole. Join returns when the size of the blob
// is known, or that it never will be. The reader lives until it is closed or ctx
// ends. The error is the source's own, or matches [store.ErrNoSpace] where nothing can be stored.
func (f *Fills) Join(ctx context.Context, d oci.Digest, src Source, want store.Extent) (r *Reader, leader bool, err error) {
	for {
		x, w, started := f.enlist(d, src, want)
		if w == nil {
			continue // it ended between our finding it and our joining it
		}
		err := x.wait(ctx, func() bool { return x.ready || w.err != nil })
		if err == nil {
			err = x.verdict(w)
		}
		if err != nil {
			x.leave()
			return nil, started, err
		}
		return &Reader{ctx: ctx, fill: x, pass: Passage{ctx: ctx, digest: d, src: src}}, started, nil
	}
}

// InProgress is the number of fills.
func (f *Fills) InProgress() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.active)
}

// Close ends all fills, whose readers fail with [ErrDraining], and waits for them.
func (f *Fills) Close() {
	f.end(ErrDraining)
	f.wg.Wait()
}

func (f *Fills) enlist(d oci.Digest, src Source, want store.Extent) (x *fill, w *waiter, started bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x = f.active[d]
	if x == nil {
		x = newFill(d, f.cfg.Share)
		started = true
		f.active[d] = x
		f.wg.Go(func() { f.run(x) })
	}
	w = x.enlist(src, want)
	if w == nil {
		delete(f.active, d)
	}
	return x, w, started
}

// run is the life of a fill: find a source that delivers, download, verify, commit.
func (f *Fills) run(x *fill) {
	err := f.make(x)
	f.mu.Lock()
	if f.active[x.digest] == x {
		delete(f.active, x.digest)
	}
	f.mu.Unlock()
	if err != nil && err != errNoSource && err != errAbandoned {
		f.cfg.Log.Warn("fill failed", "digest", x.digest, "err", err)
	}
	x.finish(err)
}

func (f *Fills) make(x *fill) error {
	// A fill of the same digest may have been committed since the caller looked.
	if blob, err := f.cfg.Store.Open(x.digest); err == nil {
		x.begin(committed{blob}, blob.Size(), nil)
		x.verify()
		return nil
	}
	leader, first, err := x.firstDelivery(f.ctx)
	if err != nil {
		return err
	}
	stage, err := f.cfg.Store.Stage(x.digest, first.Size)
	if err != nil {
		_ = first.Body.Close()
		return fmt.Errorf("stage %s: %w", x.digest, err)
	}
	x.begin(stage, first.Size, stage.Staged())

	proved := make(chan proofResult, 1)
	ctx, cancel := context.WithCancelCause(f.ctx)
	defer cancel(nil)
	go func() { // waited for below: it ends with the download or with ctx
		proof, err := x.prove(ctx)
		proved <- proofResult{proof, err}
	}()
	if err := x.conduct(ctx, f.cfg, leader, first); err != nil {
		cancel(err)
		<-proved
		return err
	}
	result := <-proved
	if result.err != nil {
		x.discard()
		return result.err
	}
	x.verify()
	if f.cfg.Verified != nil {
		f.cfg.Verified(x.digest, leader.src)
	}
	if err := stage.Commit(context.WithoutCancel(f.ctx), result.proof); err != nil {
		f.cfg.Log.Warn("blob is served but not kept", "digest", x.digest, "err", err)
	}
	return nil
}

type proofResult struct {
	proof store.Proof
	err   error
}

// committed makes a blob of the store look like a stage that needs nothing more.
type committed struct{ store.Blob }

func (c committed) Discard() error { return c.Close() }
