package fill

import (
	"context"
	"errors"
	"fmt"
	"io"

	"container-registry-proxy/internal/store"
)

// errNotLed is why a reader that was let in for what some sources deliver gets no more: another delivers the rest.
var errNotLed = errors.New("the caller's own source does not deliver the rest")

// Reader is one caller's view of a fill. Its methods are not for concurrent use; Close must be called.
type Reader struct {
	ctx   context.Context
	fill  *fill
	leads bool
	may   func(origin string) bool // whose bytes it gives out; nil means everybody's
	judge string                   // the origin that may has said yes to; guarded by fill.mu
	pass  Passage                  // where the file fails
	open  []*section
}

func (f *Fills) reader(ctx context.Context, x *fill, src Source, leads bool) *Reader {
	return &Reader{ctx: ctx, fill: x, leads: leads, pass: f.passage(ctx, x.digest, src)}
}

// Restrict has the reader give out nothing once bytes come from an origin that may says no to: it ends with an error
// then. An empty one stands for several, or one that is not known. It reports whether that is not so already. It is
// called before any read.
func (r *Reader) Restrict(may func(origin string) bool) bool {
	r.fill.mu.Lock()
	defer r.fill.mu.Unlock()
	r.may, r.judge = may, ""
	return r.permits()
}

// permits reports whether what is delivered may be given out. It is called under fill.mu.
func (r *Reader) permits() bool {
	if r.may == nil || r.judge != "" && r.judge == r.fill.origin {
		return true
	}
	if !r.may(r.fill.origin) {
		return false
	}
	r.judge = r.fill.origin
	return true
}

// Size is the size of the blob in bytes, -1 while it is not known.
func (r *Reader) Size() int64 { return r.fill.total() }

// Verified reports whether the bytes have been found to be the digest's.
func (r *Reader) Verified() bool {
	r.fill.mu.Lock()
	defer r.fill.mu.Unlock()
	return r.fill.verified
}

// Await waits until the blob is verified, and returns why it never will be. It takes the whole of the blob.
func (r *Reader) Await() error {
	x := r.fill
	x.want(-1)
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
	r.fill.leave()
	return r.pass.Close()
}

// section reads a run of bytes of a fill in progress.
type section struct {
	reader *Reader
	at     int64
	end    int64     // -1: the end of the blob
	own    io.Reader // where the file failed: the rest, from the caller's own source
}

func (s *section) Read(p []byte) (int, error) {
	if s.own != nil {
		return s.own.Read(p)
	}
	if len(p) == 0 {
		return 0, nil
	}
	x := s.reader.fill
	limit, err := s.await()
	switch {
	case errors.Is(err, store.ErrNoSpace):
		return s.goOn(p)
	case err != nil:
		return 0, err
	case limit == s.at:
		return 0, io.EOF
	}
	n, _ := x.file.ReadAt(p[:min(int64(len(p)), limit-s.at)], s.at)
	x.release()
	s.at += int64(n)
	if n == 0 { // the file has what we were told it has, or it is damaged
		return s.goOn(p)
	}
	return n, nil
}

// goOn reads from the caller's own source from here on.
func (s *section) goOn(p []byte) (_ int, err error) {
	if s.own, err = s.reader.bypass(s.at, s.end); err != nil {
		return 0, err
	}
	return s.own.Read(p)
}

// await blocks until bytes at s.at may be given out, holds the file and returns up to where. At the end of the section
// it returns s.at and holds nothing.
func (s *section) await() (limit int64, err error) {
	x := s.reader.fill
	x.mu.Lock()
	defer x.mu.Unlock()
	ready := func() bool {
		var finished bool
		limit, finished, err = s.look()
		return limit > s.at || finished || err != nil
	}
	if !ready() {
		x.demands[s] = struct{}{}
		if !x.soon(x.have.End(s.at)) {
			x.wake()
		}
		werr := x.waitLocked(s.reader.ctx, ready)
		delete(x.demands, s)
		if werr != nil {
			return 0, werr
		}
		ready()
	}
	if err == nil && limit > s.at {
		x.reading++
	}
	return limit, err
}

// look is up to where the section may be read, and whether it ends at s.at. It is called under mu.
func (s *section) look() (limit int64, finished bool, err error) {
	x, end := s.reader.fill, s.end
	if end < 0 || x.size >= 0 && end > x.size {
		end = x.size // still -1 where the size is unknown
	}
	if end >= 0 && s.at >= end {
		return s.at, true, nil
	}
	limit = x.released(s.at, end)
	switch {
	case s.reader.leads && x.mixed, !s.reader.permits():
		return s.at, false, fmt.Errorf("fill %s: %w", x.digest, errNotLed)
	case x.err != nil && (x.closing || limit == s.at || !errors.Is(x.err, store.ErrNoSpace)):
		return s.at, false, fmt.Errorf("fill %s: %w", x.digest, x.err)
	case limit == s.at && x.ended:
		return s.at, false, fmt.Errorf("fill %s: ended at byte %d", x.digest, s.at)
	}
	return limit, false, nil
}

// release ends a read of the file.
func (x *fill) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.reading--; x.closing {
		x.changed()
	}
}

// until is where the section ends in a blob of that size.
func (s *section) until(size int64) int64 {
	if s.end < 0 {
		return size
	}
	return min(s.end, size)
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

// bypass goes on without the file: the rest comes from the caller's own source, verified on its way. What can still be
// read of the file need not be asked for again, but must be hashed again. The section has given out the bytes up to at.
func (r *Reader) bypass(at, end int64) (io.Reader, error) {
	x := r.fill
	r.pass.size = x.total()
	r.pass.count(NoSpace)
	if end >= 0 && end != r.pass.size {
		return r.pass.part(at, end), nil
	}
	verifier := store.NewVerifier(x.digest)
	if x.hold() {
		_, _ = io.Copy(verifier, io.NewSectionReader(x.file, 0, min(at, x.frontier())))
		x.release()
	}
	return r.pass.rest(verifier, at), nil
}

// hold has the file stay open until release, and reports whether it is.
func (x *fill) hold() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closing {
		return false
	}
	x.reading++
	return true
}
