package cache

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/fill"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// Blob returns a blob, filling it from upstream if it is not there. The content's body may follow a fill in progress.
// Errors are the registry's [*upstream.Refusal], or that it cannot be reached.
func (c *Cache) Blob(ctx context.Context, p Pull) (*Content, error) {
	return c.orFallBack(ctx, p, c.blobOf)
}

// blobOf is Blob for one registry.
func (c *Cache) blobOf(ctx context.Context, p Pull) (*Content, error) {
	g := c.cfg.Access.Grant(ctx, p.Caller, p.Registry, p.Path)
	if p.Background {
		p.purpose = ratelimit.Background
	}
	content, err := c.blob(ctx, p, g)
	if other, ok := c.cfg.Access.Otherwise(ctx, g, err); ok {
		return c.blob(ctx, p, other)
	}
	return content, err
}

func (c *Cache) blob(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	if body, size, ok := c.open(p.Path.Digest); ok {
		err := c.permitted(ctx, g, p.Path)
		if err == nil {
			return c.hit(ctx, p, g, body, size), nil
		}
		_ = body.Close()
		if !errors.Is(err, access.ErrUnproven) {
			return nil, err
		}
		if !p.Head {
			return c.prove(ctx, p, g)
		}
	}
	if p.Head {
		return c.headBlob(ctx, p, g)
	}
	return c.fetch(ctx, p, g)
}

// headBlob answers a HEAD for a blob that is not cached, from its fill if one is in progress.
func (c *Cache) headBlob(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	progress, ok := c.fills.Look(p.Path.Digest)
	if !ok {
		return c.blobSize(ctx, p, g)
	}
	if err := c.mayFollow(ctx, p, g); err != nil {
		return nil, err
	}
	if !c.cfg.Access.Proven(g, p.Path.Digest) && !c.sharedWith(g)(progress.Origin) {
		return c.blobSize(ctx, p, g)
	}
	content := &Content{Descriptor: oci.Descriptor{Digest: p.Path.Digest, Size: progress.Size}, Outcome: Coalesced}
	if progress.Verified {
		content.Outcome = Hit
	}
	return content, nil
}

// mayFollow returns nil if the caller may pull what another's fill brings, as far as its own registry claims to hold it.
func (c *Cache) mayFollow(ctx context.Context, p Pull, g access.Grant) error {
	if err := c.cfg.Access.Confirm(ctx, g, p.Path); err != nil {
		return err
	}
	return c.cfg.Access.Claims(ctx, g, p.Path)
}

// open returns what is cached of d, from memory or from the store.
func (c *Cache) open(d oci.Digest) (Body, int64, bool) {
	b, due, ok := c.memory.get(d)
	if ok && !due {
		return memoryBody(b), int64(len(b)), true
	}
	blob, err := c.cfg.Store.Open(d)
	switch {
	case err != nil && ok: // evicted, but in use
		c.memory.put(d, b)
		c.commit(d, b)
		return memoryBody(b), int64(len(b)), true
	case err != nil:
		return nil, 0, false
	case blob.Size() > smallObject:
		return &blobBody{blob: blob}, blob.Size(), true
	}
	defer blob.Close()
	if !ok {
		b = make([]byte, blob.Size())
		if n, err := blob.ReadAt(b, 0); n < len(b) || err != nil && err != io.EOF {
			return nil, 0, false // damaged, and so gone: a miss
		}
	}
	c.memory.put(d, b)
	return memoryBody(b), int64(len(b)), true
}

// has reports whether d is cached.
func (c *Cache) has(d oci.Digest) bool {
	body, _, ok := c.open(d)
	if ok {
		_ = body.Close()
	}
	return ok
}

// descriptor describes a manifest that is cached.
func (c *Cache) descriptor(d oci.Digest) (oci.Descriptor, bool) {
	mediaType := c.cfg.Metadata.MediaType(d)
	if mediaType == "" {
		return oci.Descriptor{}, false
	}
	body, size, ok := c.open(d)
	if ok {
		_ = body.Close()
	}
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: size}, ok
}

// permitted returns nil if what is cached of p's digest may be given out under the grant.
func (c *Cache) permitted(ctx context.Context, g access.Grant, p oci.Path) error {
	if err := c.cfg.Access.Confirm(ctx, g, p); err != nil {
		return err
	}
	return c.cfg.Access.Holds(ctx, g, p)
}

// hit is a blob that is cached. One that turns out to be damaged on the way is fetched again.
func (c *Cache) hit(ctx context.Context, p Pull, g access.Grant, body Body, size int64) *Content {
	if b, ok := body.(*blobBody); ok {
		b.refill = func() (Body, error) {
			content, err := c.fetch(ctx, p, g)
			if err != nil {
				return nil, err
			}
			return content.Body, nil
		}
	}
	return &Content{Descriptor: oci.Descriptor{Digest: p.Path.Digest, Size: size}, Outcome: Hit, Body: body}
}

// fetch fills a blob from upstream, or joins those who do; where nothing can be stored it passes through.
func (c *Cache) fetch(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	content, err := c.join(ctx, c.fills, p, g)
	switch {
	case errors.Is(err, store.ErrNoSpace):
		return c.passage(ctx, p, g, fill.NoSpace)
	case errors.Is(err, access.ErrUnproven) && c.has(p.Path.Digest): // by now
		return c.prove(ctx, p, g)
	case errors.Is(err, access.ErrUnproven):
		return c.passage(ctx, p, g, fill.Proof)
	}
	return content, err
}

// join joins the fill of p's digest, or starts it. Whoever does not lead needs its own registry's word that the
// repository holds the digest. Where that word is not enough for what is cached, it is for what that registry itself is
// delivering, and for what every client may have; any other caller has its registry deliver on its own.
func (c *Cache) join(ctx context.Context, fills *fill.Fills, p Pull, g access.Grant) (*Content, error) {
	r, leads, err := fills.Join(ctx, p.Path.Digest, c.source(ctx, p, g), p.Want)
	if err != nil {
		return nil, err
	}
	content := &Content{Descriptor: oci.Descriptor{Digest: p.Path.Digest, Size: r.Size()}, Outcome: Miss, Body: r}
	if leads {
		return content, nil
	}
	content.Outcome = Coalesced
	if r.Verified() { // all of it is here, on its way into the store
		content.Outcome = Hit
	}
	if err = c.mayFollow(ctx, p, g); err == nil && !c.cfg.Access.Proven(g, p.Path.Digest) && !r.Restrict(c.sharedWith(g)) {
		err = access.ErrUnproven
	}
	if err != nil {
		_ = r.Close()
		return nil, err
	}
	return content, nil
}

// sharedWith is whose bytes a caller may have that its registry only claims to hold: that registry's own, and what every
// client may have.
func (c *Cache) sharedWith(g access.Grant) func(origin string) bool {
	return func(origin string) bool {
		reg, repository, ok := strings.Cut(origin, " ")
		from := oci.Registry(reg)
		return ok && (from == g.Registry || c.cfg.Access.FreeAt(from, repository))
	}
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
	size := resp.ContentLength
	if resp.StatusCode != http.StatusOK && needsGet(resp.StatusCode, g) {
		_ = resp.Body.Close()
		if resp, err = c.ask(ctx, g, http.MethodGet, p.Path, http.Header{"Range": {"bytes=0-0"}}); err != nil {
			return nil, err
		}
		size = sizeOf(resp)
	}
	switch {
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && size == 0: // there is no byte to ask for
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent:
		return nil, g.Refusal(resp)
	}
	if resp.Header.Get("Content-Encoding") != "" {
		size = -1
	}
	_ = resp.Body.Close()
	c.cfg.Access.Answered(g, p.Path)
	return &Content{Descriptor: oci.Descriptor{Digest: p.Path.Digest, Size: size}, Outcome: Miss}, nil
}

// needsGet reports whether the status of a HEAD says nothing of the blob: it is somewhere else, a HEAD is not spoken,
// or the operator's credentials are refused and the blob may be open all the same.
func needsGet(status int, g access.Grant) bool {
	return status >= 300 && status < 400 || status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented ||
		status == http.StatusUnauthorized && g.Class != access.Own
}

// sizeOf is the size of the blob of which a byte was asked for, -1 if that is not said.
func sizeOf(resp *http.Response) int64 {
	contentRange := resp.Header.Get("Content-Range")
	if _, total, ok := parseContentRange(contentRange); ok {
		return total
	}
	if total, ok := strings.CutPrefix(contentRange, "bytes */"); ok {
		if n, err := strconv.ParseInt(total, 10, 64); err == nil && n >= 0 {
			return n
		}
	}
	if resp.StatusCode == http.StatusOK {
		return resp.ContentLength
	}
	return -1
}

// passage hands a blob on to one client.
func (c *Cache) passage(ctx context.Context, p Pull, g access.Grant, why fill.Reason) (*Content, error) {
	body, err := c.fills.Pass(ctx, p.Path.Digest, c.source(ctx, p, g), p.Want, why)
	if err != nil {
		return nil, err
	}
	return &Content{Descriptor: oci.Descriptor{Digest: p.Path.Digest, Size: body.Size()}, Outcome: Bypass, Body: body}, nil
}
