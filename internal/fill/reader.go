package fill

import (
	"context"
	"errors"
	"fmt"
	"io"

	"container-registry-proxy/internal/store"
)

// Reader is one caller's view of a fill. Its methods are not for concurrent use; Close must be called.
type Reader struct {
	ctx  context.Context
	fill *fill
	pass Passage // where the file fails
	open []*section
}

// Size is the size of the blob in bytes, -1 while it is not known.
func (r *Reader) Size() int64 { return r.fill.total() }

// Verified reports whether the bytes have been found to be the digest's.
func (r *Reader) Verified() bool {
	r.fill.mu.Lock()
	defer r.fill.mu.Unlock()
	return r.fill.verified
}

// Await waits until the blob is verified, and returns why it never will be.
func (r *Reader) Await() error {
	x := r.fill
	if err := x.wait(r.ctx, func() bool { return x.verified || x.ended }); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

// Range returns a reader of the bytes from start up to end; an end of -1 means all that follow. Where the range takes
// in the last byte, its last 64 KiB are withheld until the blob is verified. Its Read returns an error, never io.EOF,
// where the bytes turn out to be wrong.
func (r *Reader) Range(start, end int64) io.Reader {
	s := &section{reader: r, at: start, end: end}
	r.open = append(r.open, s)
	r.fill.want(end)
	return s
}

// Close ends the caller's use of the fill, which goes on without it.
func (r *Reader) Close() error {
	for _, s := range r.open {
		r.fill.satisfied(s)
	}
	r.fill.leave()
	return r.pass.Close()
}

// section reads a run of bytes of a fill in progress.
type section struct {
	reader *Reader
	at     int64
	end    int64     // -1: the end of the blob
	needs  int64     // the byte it waits for; guarded by fill.mu
	own    io.Reader // where the file failed: the rest, from the caller's own source
}

func (s *section) Read(p []byte) (int, error) {
	if s.own != nil {
		return s.own.Read(p)
	}
	limit, err := s.await()
	switch {
	case errors.Is(err, store.ErrNoSpace):
		if s.own, err = s.reader.bypass(s.at, s.end); err != nil {
			return 0, err
		}
		return s.own.Read(p)
	case err != nil:
		return 0, err
	case limit == s.at:
		return 0, io.EOF
	}
	n, err := s.reader.fill.file.ReadAt(p[:min(int64(len(p)), limit-s.at)], s.at)
	s.at += int64(n)
	if n > 0 || err == io.EOF {
		err = nil
	}
	return n, err
}

// await blocks until bytes at s.at may be given out and returns up to where. At the end of the section it returns s.at.
func (s *section) await() (limit int64, err error) {
	x := s.reader.fill
	done := false
	werr := x.wait(s.reader.ctx, func() bool {
		end := s.end
		if end < 0 || (x.size >= 0 && end > x.size) {
			end = x.size // still -1 where the size is unknown
		}
		limit = x.released(s.at, end)
		done = s.at == end
		if done || limit > s.at || x.ended {
			delete(x.demands, s)
			return true
		}
		x.demand(s)
		return false
	})
	if werr != nil {
		return 0, werr
	}
	if done {
		return s.at, nil
	}
	if limit > s.at {
		return limit, nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		return 0, fmt.Errorf("fill %s: ended at byte %d", x.digest, s.at)
	}
	return 0, fmt.Errorf("fill %s: %w", x.digest, x.err)
}

// until is where the section ends in a blob of that size.
func (s *section) until(size int64) int64 {
	if s.end < 0 {
		return size
	}
	return min(s.end, size)
}

// demand has the conductor know what a section waits for. It is called under mu.
func (x *fill) demand(s *section) {
	s.needs = s.at
	x.demands[s] = struct{}{}
	if !x.soon(x.have.End(s.at)) {
		x.wake()
	}
}

// satisfied forgets what a section waited for.
func (x *fill) satisfied(s *section) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.demands, s)
}

// want takes note of a section that ends at end: the last byte of a blob is given out only when all of it is there.
func (x *fill) want(end int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.whole && (end < 0 || end == x.size) {
		x.whole = true
		x.wake()
	}
}

// released is up to where a reader at off may read in a section that ends at end (-1: unknown). It is called under mu.
func (x *fill) released(off, end int64) int64 {
	there := x.have.End(off)
	if x.verified {
		there = x.size
	}
	if end >= 0 {
		there = min(there, end)
	}
	switch {
	case x.verified, end >= 0 && end < x.size:
		return there
	case end < 0: // the end is not known: what was received last may be the last there is
		return max(off, there-Withheld)
	}
	return max(off, min(there, x.size-Withheld))
}

// bypass goes on without the file: the rest comes from the caller's own source, verified on its way. What is in the
// file need not be asked for again, but must be hashed again. The section has given out the bytes up to at.
func (r *Reader) bypass(at, end int64) (io.Reader, error) {
	size := r.fill.total()
	if end >= 0 && end != size {
		return r.pass.part(at, end)
	}
	verifier := store.NewVerifier(r.fill.digest)
	_, _ = io.Copy(verifier, io.NewSectionReader(r.fill.file, 0, min(at, r.fill.frontier())))
	return r.pass.rest(verifier, at)
}
