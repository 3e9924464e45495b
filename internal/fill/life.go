package fill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// linger is how long the readers of a fill that has run out of space may go on reading what there is of it, before its
// file is given up for others to have the space.
const linger = 30 * time.Second

// run is the life of a fill: make the blob, and see that its file is closed before the next fill of the digest begins.
func (f *Fills) run(x *fill) {
	result, err := f.make(x)
	if err != nil && result != stopped && result != refused {
		f.cfg.Log.Warn("fill failed", "digest", x.digest, "err", err)
	}
	f.metrics.finished(result)
	switch result {
	case committed, found:
		x.finish(nil)
	case unkept: // nobody can open it: those who come while it is read join it
		x.untilUnread(f.ctx)
	case noSpace:
		x.finish(err)
		ctx, cancel := context.WithTimeout(f.ctx, linger)
		_ = x.wait(ctx, func() bool { return x.users == 1 })
		cancel()
		x.shut()
	default:
		x.finish(err)
		x.shut()
	}
	f.mu.Lock()
	delete(f.active, x.digest)
	f.mu.Unlock()
	close(x.gone)
	x.leave()
}

// make finds a source that delivers, downloads, verifies and commits.
func (f *Fills) make(x *fill) (result, error) {
	// A fill of the same digest may have been committed since the caller looked.
	if blob, err := f.cfg.Store.Open(x.digest); err == nil {
		x.begin(beginning{file: kept{blob}, size: blob.Size(), verified: true})
		return found, nil
	}
	f.metrics.started.Inc()
	last := f.recall(x.digest)
	if last.mistaken {
		f.metrics.restarts.Inc()
	}
	b, first, err := f.begin(x, last.size)
	if err != nil {
		return resultOf(err), err
	}
	proof, err := f.complete(x, b, first)
	if err != nil {
		f.remember(x.digest, undone{resultOf(err) == mismatch, x.total()})
		return resultOf(err), err
	}
	if err := b.file.(store.Stage).Commit(context.WithoutCancel(f.ctx), proof); err != nil {
		f.cfg.Log.Warn("blob is served but not kept", "digest", x.digest, "err", err)
		return unkept, nil
	}
	return committed, nil
}

// complete brings the blob into its stage and gives it out: all at once if it is small, and otherwise as it comes, up to
// the bytes that wait for the proof.
func (f *Fills) complete(x *fill, b beginning, first *opening) (proof store.Proof, err error) {
	if first != nil && first.isSmall(b.have) && f.worthFinishing(0, first.Size) {
		if proof, b.verified = f.receiveAll(x, b.file.(store.Stage), first); b.verified {
			f.verified(x.digest, b.leader.src, b.origin)
		}
	}
	x.begin(b)
	if b.verified {
		return proof, nil
	}
	if proof, err = f.download(x, first); err != nil {
		return proof, err
	}
	f.verified(x.digest, b.leader.src, x.from())
	x.verify()
	return proof, nil
}

// verified tells whose bytes have been found to be the digest's, if they all come from one origin and that is src's.
func (f *Fills) verified(d oci.Digest, src Source, origin string) {
	if f.cfg.Verified != nil && origin == src.Origin() {
		f.cfg.Verified(d, src)
	}
}

// begin asks for the first bytes and opens the stage for them, or the other way round where an earlier fill, of a blob of
// that size, may have left some.
func (f *Fills) begin(x *fill, size int64) (b beginning, first *opening, err error) {
	var stage store.Stage
	if size >= 0 {
		if stage, err = f.cfg.Store.Stage(x.digest, size); err != nil {
			return b, nil, err
		}
		x.resumed(size, stage.Staged())
	}
	leader, first, err := f.firstDelivery(x)
	switch {
	case err != nil && stage != nil:
		return b, nil, errors.Join(err, stage.Close())
	case err != nil:
		return b, nil, err
	}
	if stage != nil && first != nil && (first.stale || first.Size >= 0 && first.Size != size) {
		if err := stage.Discard(); err != nil {
			f.cfg.Log.Warn("discard staged bytes", "digest", x.digest, "err", err)
		}
		stage = nil
	}
	if stage == nil {
		size = first.Size
		if stage, err = f.cfg.Store.Stage(x.digest, size); err != nil {
			first.close()
			return b, nil, fmt.Errorf("stage %s: %w", x.digest, err)
		}
	}
	b = beginning{file: stage, size: size, have: stage.Staged(), leader: leader, origin: leader.src.Origin()}
	if s, is := stage.(store.Sourced); is && len(b.have) > 0 {
		b.origin = s.Source()
	} else if len(b.have) > 0 {
		b.origin = ""
	} else if is {
		s.SetSource(b.origin)
	}
	return b, first, nil
}

// download has all missing bytes brought and hashes them.
func (f *Fills) download(x *fill, first *opening) (store.Proof, error) {
	type hashed struct {
		proof store.Proof
		err   error
	}
	proved := make(chan hashed, 1)
	ctx, cancel := context.WithCancelCause(f.ctx)
	defer cancel(nil)
	go func() { // waited for below: it ends with the download or with ctx
		proof, err := x.prove(ctx)
		proved <- hashed{proof, err}
	}()
	err := f.conduct(ctx, x, first)
	if err != nil {
		cancel(err)
	}
	h := <-proved
	if err == nil {
		err = h.err
	}
	if resultOf(err) == mismatch {
		x.discard()
	}
	return h.proof, err
}

// recall is what became of the last fill of a digest. Of an earlier process's, the store may know.
func (f *Fills) recall(d oci.Digest) undone {
	f.mu.Lock()
	last, ok := f.undone[d]
	delete(f.undone, d)
	f.mu.Unlock()
	if ok {
		if last.mistaken {
			last.size = -1 // nothing of it is left
		}
		return last
	}
	if s, is := f.cfg.Store.(store.Resumable); is {
		if size, ok := s.Leftover(d); ok {
			return undone{size: size}
		}
	}
	return undone{size: -1}
}

func (f *Fills) remember(d oci.Digest, u undone) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.undone) >= maxUndone {
		clear(f.undone)
	}
	f.undone[d] = u
}

// kept makes a blob of the store look like a stage that needs nothing more.
type kept struct{ store.Blob }

func (k kept) Discard() error { return k.Close() }
