package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream"
)

// resolveTimeout bounds what is asked on behalf of several callers at once; the client's own time-outs are shorter.
const resolveTimeout = 2 * time.Minute

// maxAccept is how long an Accept in normal form may be to be part of a record's key.
const maxAccept = 2 << 10

// tag answers a pull by tag: find out which digest it means, then give out that digest.
func (c *Cache) tag(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	freshFor, tier := c.cfg.Freshness.For(p.Path.Repository, p.Path.Tag)
	key := metadata.TagKey{Registry: p.Registry, Repository: p.Path.Repository, Tag: p.Path.Tag, Accept: normalAccept(p.Accept)}
	if len(key.Accept) > maxAccept {
		return c.passManifest(ctx, p, g)
	}
	rec, known := c.cfg.Metadata.Tag(key)
	if known {
		if err := c.cfg.Access.Confirm(ctx, g, p.Path); err != nil {
			return nil, err
		}
	}
	r := resolved{desc: rec.Descriptor, outcome: Hit}
	if !known || p.NoCache || rec.Age(c.cfg.Now()) >= freshFor {
		var err error
		if r, err = c.resolve(ctx, p, g, key); errors.Is(err, errTooLarge) {
			return c.passManifest(ctx, p, g)
		} else if err != nil {
			return nil, err
		}
	}
	content, err := c.give(ctx, p, g, r)
	if content != nil {
		content.Tier = tier
	}
	return content, err
}

// resolved is what a tag was found to mean.
type resolved struct {
	desc    oci.Descriptor
	outcome Outcome
	bytes   []byte // the manifest, where finding out has fetched it
}

// resolve asks upstream what the tag means, once for all concurrent callers of the same identity and Accept.
func (c *Cache) resolve(ctx context.Context, p Pull, g access.Grant, key metadata.TagKey) (resolved, error) {
	leader := false
	result := c.flights.DoChan(fmt.Sprintf("tag %x %t %q", g.As.Key(), p.Head, key), func() (any, error) {
		leader = true // written before the result is sent
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resolveTimeout)
		defer cancel()
		return c.find(ctx, p, g, key)
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return resolved{}, r.Err
		}
		found := r.Val.(resolved)
		if !leader && found.outcome == Miss {
			found.outcome = Coalesced
		}
		return found, nil
	case <-ctx.Done():
		return resolved{}, context.Cause(ctx)
	}
}

// find revalidates a known tag with a HEAD, and fetches an unknown one with a GET. If upstream is in trouble the record
// is served stale.
func (c *Cache) find(ctx context.Context, p Pull, g access.Grant, key metadata.TagKey) (resolved, error) {
	rec, known := c.cfg.Metadata.Tag(key)
	if !known && !p.Head {
		m, err := c.fetchManifest(ctx, g, p)
		if err != nil {
			return resolved{}, err
		}
		if m.passed != nil {
			_ = m.passed.Body.Close()
			return resolved{}, errTooLarge
		}
		c.keep(ctx, g, m)
		c.record(g, key, m.Descriptor)
		return resolved{desc: m.Descriptor, outcome: Miss, bytes: m.bytes}, nil
	}
	desc, err := c.describe(ctx, g, p)
	switch {
	case err != nil && known && passing(err):
		c.cfg.Log.Info("tag served stale", "registry", key.Registry, "repository", key.Repository, "reference", key.Tag, "err", err)
		return resolved{desc: rec.Descriptor, outcome: StaleHit}, nil
	case err != nil:
		return resolved{}, err
	}
	c.record(g, key, desc)
	if known && desc.Digest == rec.Descriptor.Digest {
		return resolved{desc: rec.Descriptor, outcome: Revalidated}, nil
	}
	return resolved{desc: desc, outcome: Miss}, nil
}

// errTooLarge sends a manifest over maxManifest past the cache.
var errTooLarge = errors.New("manifest too large to keep")

// record keeps what a tag means. That the registry said so links the digest to the repository, as a claim.
func (c *Cache) record(g access.Grant, key metadata.TagKey, desc oci.Descriptor) {
	c.cfg.Metadata.PutTag(key, metadata.TagRecord{Descriptor: desc, ValidatedAt: c.cfg.Now()})
	c.cfg.Metadata.PutLink(g.Registry, g.Repository, desc.Digest, metadata.Claimed)
}

// passing reports whether an error speaks of upstream's passing trouble, for which a stale answer is better.
func passing(err error) bool {
	var refusal *upstream.Refusal
	if errors.As(err, &refusal) {
		return refusal.Temporary()
	}
	var unreachable *upstream.UnreachableError
	return errors.As(err, &unreachable) || errors.Is(err, context.DeadlineExceeded)
}

// give turns what a tag means into content, fetching the manifest by digest if it is neither at hand nor cached.
func (c *Cache) give(ctx context.Context, p Pull, g access.Grant, r resolved) (*Content, error) {
	if p.Head {
		return &Content{Descriptor: r.desc, Outcome: r.outcome}, nil
	}
	if r.bytes != nil {
		return &Content{Descriptor: r.desc, Outcome: r.outcome, Body: memoryBody(r.bytes)}, nil
	}
	byDigest := p
	byDigest.Path.Tag, byDigest.Path.Digest = "", r.desc.Digest
	byDigest.Accept = nil // the registry chose this digest for what the client accepts
	content, err := c.manifestByDigest(ctx, byDigest, g)
	if err != nil {
		return nil, err
	}
	if content.Outcome == Hit {
		content.Outcome = r.outcome
	}
	return content, nil
}
