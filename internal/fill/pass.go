package fill

import (
	"context"
	"io"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// Passage gives out a blob straight from a source, for one caller, keeping nothing. Whatever ends with the blob's last
// byte is verified on its way, at the price of asking for all of it. Where upstream breaks off it is asked for the rest.
// Its methods are not for concurrent use.
type Passage struct {
	fills   *Fills
	ctx     context.Context
	digest  oci.Digest
	src     Source
	size    int64
	first   *stream // not yet used
	open    []*stream
	counted bool
}

// Pass opens a passage for the blob d, of which want will be read first. It lives until it is closed or ctx ends.
func (f *Fills) Pass(ctx context.Context, d oci.Digest, src Source, want store.Extent, why Reason) (*Passage, error) {
	p := f.passage(ctx, d, src)
	p.count(why)
	if want.End < 0 {
		want.Start = 0 // all of it is hashed
	}
	s := p.stream(want.Start, want.End)
	if err := s.ask(); err != nil {
		return nil, err
	}
	p.first, p.size = s, s.size
	return &p, nil
}

func (f *Fills) passage(ctx context.Context, d oci.Digest, src Source) Passage {
	return Passage{fills: f, ctx: ctx, digest: d, src: src, size: -1}
}

// Pass opens a passage that no set of fills counts.
func Pass(ctx context.Context, d oci.Digest, src Source) (*Passage, error) {
	return New(Config{}).Pass(ctx, d, src, store.Extent{End: -1}, Own)
}

// Size is the size of the blob in bytes, -1 where the source does not say.
func (p *Passage) Size() int64 { return p.size }

// Verified is always false.
func (p *Passage) Verified() bool { return false }

// Await returns at once: there is nothing to wait for but the bytes themselves.
func (p *Passage) Await() error { return nil }

// Range returns a reader of the bytes from start up to end, -1 meaning the last one.
func (p *Passage) Range(start, end int64) io.Reader {
	if end >= 0 && end != p.size {
		return p.part(start, end)
	}
	return p.rest(store.NewVerifier(p.digest), start)
}

// rest returns the bytes from at to the last one, withholding the tail. The verifier has hashed a beginning of the blob
// that ends at or before at; what follows that is fetched.
func (p *Passage) rest(verifier *store.Verifier, at int64) io.Reader {
	var proved func()
	if verifier.Size() == 0 && p.fills.cfg.Verified != nil { // all the bytes are the source's own
		proved = func() { p.fills.cfg.Verified(p.digest, p.src) }
	}
	return withhold(p.part(verifier.Size(), -1), verifier, at, proved)
}

// part returns the bytes from start up to end, unverified.
func (p *Passage) part(start, end int64) io.Reader {
	if s := p.first; s != nil {
		p.first = nil
		if s.at == start && s.end == end {
			return s
		}
		s.close()
	}
	return p.stream(start, end)
}

func (p *Passage) stream(start, end int64) *stream {
	s := &stream{fills: p.fills, ctx: p.ctx, src: p.src, at: start, end: end, size: p.size}
	p.open = append(p.open, s)
	return s
}

// count counts the passage once.
func (p *Passage) count(why Reason) {
	if !p.counted {
		p.counted = true
		p.fills.metrics.passed(why)
	}
}

// Close ends the passage.
func (p *Passage) Close() error {
	for _, s := range p.open {
		s.close()
	}
	return nil
}
