package cache

import (
	"context"
	"errors"
	"io"
	"net/http"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/fill"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// Blob returns a blob, filling it from upstream if it is not there. The content's body may follow a fill in progress.
// Errors are the registry's [*upstream.Refusal], or that it cannot be reached.
func (c *Cache) Blob(ctx context.Context, p Pull) (*Content, error) {
	g := c.cfg.Access.Grant(ctx, p.Caller, p.Registry, p.Path)
	if g.Class == access.Own {
		return c.pass(ctx, p, g)
	}
	d := p.Path.Digest
	if body, size, ok := c.open(d); ok {
		if err := c.permitted(ctx, g, p.Path); err != nil {
			_ = body.Close()
			return nil, err
		}
		if b, ok := body.(*blobBody); ok {
			b.refill = func() (Body, error) {
				content, err := c.fill(ctx, p, g)
				if err != nil {
					return nil, err
				}
				return content.Body, nil
			}
		}
		return &Content{Descriptor: oci.Descriptor{Digest: d, Size: size}, Outcome: Hit, Body: body}, nil
	}
	if p.Head {
		return c.blobSize(ctx, p, g)
	}
	content, err := c.fill(ctx, p, g)
	if errors.Is(err, store.ErrNoSpace) {
		return c.pass(ctx, p, g)
	}
	return content, err
}

// open returns what is cached of d, from memory or from the store.
func (c *Cache) open(d oci.Digest) (Body, int64, bool) {
	if b, ok := c.memory.get(d); ok {
		return memoryBody(b), int64(len(b)), true
	}
	blob, err := c.cfg.Store.Open(d)
	if err != nil {
		return nil, 0, false
	}
	if blob.Size() > smallObject {
		return &blobBody{blob: blob}, blob.Size(), true
	}
	defer blob.Close()
	b := make([]byte, blob.Size())
	if _, err := blob.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil, 0, false // damaged, and so gone: a miss
	}
	c.memory.put(d, b)
	return memoryBody(b), int64(len(b)), true
}

// permitted returns nil if what is cached of p's digest may be given out under the grant.
func (c *Cache) permitted(ctx context.Context, g access.Grant, p oci.Path) error {
	if err := c.cfg.Access.Confirm(ctx, g, p); err != nil {
		return err
	}
	return c.cfg.Access.Holds(ctx, g, p)
}

// fill joins the fill of p's digest, or starts it. A caller that did not start it has its own permission checked.
func (c *Cache) fill(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	r, leader, err := c.fills.Join(ctx, p.Path.Digest, &source{cache: c, grant: g, path: p.Path}, p.Want)
	if err != nil {
		return nil, err
	}
	outcome := Miss
	if !leader {
		outcome = Coalesced
		if err := c.permitted(ctx, g, p.Path); err != nil {
			_ = r.Close()
			return nil, err
		}
	}
	return &Content{Descriptor: oci.Descriptor{Digest: p.Path.Digest, Size: r.Size()}, Outcome: outcome, Body: r}, nil
}

// blobSize answers a HEAD for a blob that is not cached. A redirect to storage is not followed with a HEAD, which its
// signature would not cover: one byte is asked for instead, and its Content-Range tells the size.
func (c *Cache) blobSize(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	resp, err := c.cfg.Registries.Do(ctx, upstream.Request{
		Method: http.MethodHead, Registry: g.Registry, Path: p.Path.String(),
		Scope: auth.PullScope(p.Path.Repository), As: g.As, NoFollow: true,
	})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	size := resp.ContentLength
	if resp.StatusCode >= 300 && resp.StatusCode < 400 || resp.StatusCode == http.StatusMethodNotAllowed {
		if resp, err = c.ask(ctx, g, http.MethodGet, p.Path, http.Header{"Range": {"bytes=0-0"}}); err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		size = resp.ContentLength
		if _, total, ok := parseContentRange(resp.Header.Get("Content-Range")); ok {
			size = total
		}
	}
	if resp.StatusCode >= 300 {
		return nil, upstream.NewRefusal(resp)
	}
	c.cfg.Access.Answered(g)
	return &Content{Descriptor: oci.Descriptor{Digest: p.Path.Digest, Size: size}, Outcome: Miss}, nil
}

// pass hands a blob on to the caller whose grant it is, keeping nothing.
func (c *Cache) pass(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	if p.Head {
		content, err := c.blobSize(ctx, p, g)
		if err == nil {
			content.Outcome = Bypass
		}
		return content, err
	}
	passage, err := fill.Pass(ctx, p.Path.Digest, &source{cache: c, grant: g, path: p.Path})
	if err != nil {
		return nil, err
	}
	return &Content{Descriptor: oci.Descriptor{Digest: p.Path.Digest, Size: passage.Size()}, Outcome: Bypass, Body: passage}, nil
}
