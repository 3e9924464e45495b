package fill

import (
	"context"
	"fmt"
	"io"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// Passage gives out a blob straight from a source, for one caller, keeping nothing. Whatever ends with the blob's last
// byte is verified on its way, at the price of asking for all of it. Its methods are not for concurrent use.
type Passage struct {
	ctx    context.Context
	digest oci.Digest
	src    Source
	size   int64
	first  *Delivery   // the whole blob, not yet used
	open   []io.Closer // deliveries in use
}

// Pass opens a passage for the blob d. It lives until it is closed or ctx ends.
func Pass(ctx context.Context, d oci.Digest, src Source) (*Passage, error) {
	first, err := src.Fetch(ctx, 0, -1)
	if err != nil {
		return nil, err
	}
	return &Passage{ctx: ctx, digest: d, src: src, size: first.Size, first: first, open: []io.Closer{first.Body}}, nil
}

// Size is the size of the blob in bytes, -1 where the source does not say.
func (p *Passage) Size() int64 { return p.size }

// Verified is always false.
func (p *Passage) Verified() bool { return false }

// Await returns at once: there is nothing to wait for but the bytes themselves.
func (p *Passage) Await() error { return nil }

// Range returns a reader of the bytes from start up to end, -1 meaning the last one.
func (p *Passage) Range(start, end int64) io.Reader {
	r, err := p.reader(start, end)
	if err != nil {
		return failing{err}
	}
	return r
}

func (p *Passage) reader(start, end int64) (io.Reader, error) {
	if end >= 0 && end != p.size {
		return p.part(start, end)
	}
	return p.rest(store.NewVerifier(p.digest), start)
}

// rest returns the bytes from at to the last one, withholding the tail. The verifier has hashed a beginning of the blob
// that ends at or before at; what follows that is fetched.
func (p *Passage) rest(verifier *store.Verifier, at int64) (io.Reader, error) {
	body, err := p.from(verifier.Size(), -1)
	if err != nil {
		return nil, err
	}
	return withhold(body, verifier, at), nil
}

// part returns the bytes from start up to end, unverified.
func (p *Passage) part(start, end int64) (io.Reader, error) {
	body, err := p.from(start, end)
	if err != nil {
		return nil, err
	}
	return io.LimitReader(body, end-start), nil
}

// from returns the blob's bytes from start up to end, and possibly more.
func (p *Passage) from(start, end int64) (io.Reader, error) {
	delivery := p.first
	p.first = nil
	if delivery == nil || start > 0 || end >= 0 {
		var err error
		if delivery, err = p.src.Fetch(p.ctx, start, end); err != nil {
			return nil, err
		}
		p.open = append(p.open, delivery.Body)
	}
	if delivery.Start > start {
		return nil, fmt.Errorf("asked for byte %d, got byte %d", start, delivery.Start)
	}
	if _, err := io.CopyN(io.Discard, delivery.Body, start-delivery.Start); err != nil {
		return nil, err
	}
	return delivery.Body, nil
}

// Close ends the passage.
func (p *Passage) Close() error {
	for _, body := range p.open {
		_ = body.Close() // the response of a GET: there is nothing to lose
	}
	return nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
