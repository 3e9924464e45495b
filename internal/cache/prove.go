package cache

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"sync"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/fill"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// proofs have registries deliver what is stored already, because they have yet to prove that they hold it: once each,
// for all their clients together. What is delivered is compared, not stored. The clients read what is stored, but only
// as far as their registry has delivered the same.
type proofs struct {
	make func() *fill.Fills

	mu    sync.Mutex // guards fills
	fills map[oci.Registry]*fill.Fills
}

// maxProving bounds the registries whose fills are kept at hand between two proofs.
const maxProving = 256

func newProofs(cfg fill.Config) *proofs {
	cfg.Store = comparing{cfg.Store}
	return &proofs{make: func() *fill.Fills { return fill.New(cfg) }, fills: map[oci.Registry]*fill.Fills{}}
}

// of returns the fills of a registry's proofs: never those of another's, whose bytes would prove nothing.
func (p *proofs) of(reg oci.Registry) *fill.Fills {
	p.mu.Lock()
	defer p.mu.Unlock()
	fills := p.fills[reg]
	if fills != nil {
		return fills
	}
	if len(p.fills) >= maxProving {
		for other, idle := range p.fills {
			if idle.InProgress() == 0 {
				delete(p.fills, other)
			}
		}
	}
	p.fills[reg] = p.make()
	return p.fills[reg]
}

func (p *proofs) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fills := range p.fills {
		fills.Close()
	}
}

// prove gives out a blob that is stored, while the grant's registry proves that it holds it.
func (c *Cache) prove(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	content, err := c.join(ctx, c.proofs.of(g.Registry), p, g)
	switch {
	case errors.Is(err, store.ErrNoSpace): // evicted meanwhile
		return c.passage(ctx, p, g, fill.Proof)
	case err == nil && content.Outcome == Miss:
		c.proved.Inc()
	}
	return content, err
}

// comparing is a store that has everything staged that it holds, and nothing to open.
type comparing struct{ store.Store }

func (comparing) Open(oci.Digest) (store.Blob, error) { return nil, fs.ErrNotExist }

func (s comparing) Stage(d oci.Digest, size int64) (store.Stage, error) {
	blob, err := s.Store.Open(d)
	if err != nil {
		return nil, errors.Join(store.ErrNoSpace, err)
	}
	if size >= 0 && size != blob.Size() {
		_ = blob.Close()
		return nil, &store.DigestError{Want: d, Size: size}
	}
	return &comparison{blob}, nil
}

// comparison is a stage to which only the bytes can be written that are there already.
type comparison struct{ store.Blob }

var errDiffers = errors.New("registry delivers other bytes than those of the digest")

func (c *comparison) WriteAt(p []byte, off int64) (int, error) {
	b := make([]byte, len(p))
	if n, err := c.ReadAt(b, off); n < len(p) && err != nil {
		return 0, err
	}
	if !bytes.Equal(b, p) {
		return 0, errDiffers
	}
	return len(p), nil
}

func (*comparison) Staged() []store.Extent                    { return nil }
func (*comparison) Commit(context.Context, store.Proof) error { return nil }
func (c *comparison) Discard() error                          { return c.Close() }
