package cache

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/freshness"
	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/upstream"
)

// tag answers a pull by tag: find out which digest it means, then give out that digest.
func (c *Cache) tag(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	policy := c.cfg.Freshness.For(p.Registry, p.Path.Repository, p.Path.Tag)
	q := &question{Pull: p, grant: g, policy: policy, key: metadata.TagKey{
		Registry: p.Registry, Repository: p.Path.Repository, Tag: p.Path.Tag, Accept: normalAccept(p.Accept),
	}}
	var content *Content
	err := errPassed
	if !policy.NeverCache {
		content, err = c.answer(ctx, q)
	}
	if errors.Is(err, errTooLarge) || errors.Is(err, errPassed) {
		content, err = c.passManifest(ctx, p, g)
	}
	if err != nil {
		return nil, err
	}
	content.Tier = policy.Tier
	return content, nil
}

func (c *Cache) answer(ctx context.Context, q *question) (*Content, error) {
	rec, known := c.cfg.Metadata.Tag(q.key)
	q.seen = rec.ValidatedAt
	r, err := resolved{desc: rec.Descriptor, outcome: Hit}, error(nil)
	age, unasked := rec.Age(c.cfg.Now()), known && !q.NoCache
	switch {
	case unasked && age < q.policy.FreshFor:
		err = c.cfg.Access.Confirm(ctx, q.grant, q.Path)
	case unasked && age-q.policy.FreshFor < q.policy.StaleWhileRevalidate:
		r.outcome = StaleHit
		if err = c.cfg.Access.Confirm(ctx, q.grant, q.Path); err == nil {
			c.behind(q, false)
		}
	default:
		unasked = false
		r, err = c.resolve(ctx, q, known)
	}
	if err != nil {
		return nil, err
	}
	content, err := c.give(ctx, q, r)
	if unasked && missing(err) {
		// The manifest was evicted here and deleted there: the tag means another by now, or nothing.
		q.again = true
		if r, err = c.resolve(ctx, q, known); err == nil {
			content, err = c.give(ctx, q, r)
		}
	}
	return content, err
}

// behind revalidates a tag while a client is given what is stale, unless that is being done. If it is patient, it takes as
// long as it takes.
func (c *Cache) behind(q *question, patient bool) {
	b := *q
	b.purpose, b.patient = ratelimit.Background, patient
	if _, begun := c.revalidating.LoadOrStore(q.key, true); begun {
		return
	}
	c.background.Go(func() { // Close waits for it
		defer c.revalidating.Delete(q.key)
		if _, err := c.resolve(c.ctx, &b, true); err != nil {
			c.cfg.Log.Info("tag not revalidated", "registry", q.key.Registry, "repository", q.key.Repository, "reference", q.key.Tag, "err", err)
		}
	})
}

// question is what a registry is asked about a tag.
type question struct {
	Pull
	policy freshness.Policy
	grant  access.Grant
	key    metadata.TagKey
	again  bool // what is known of the tag leads nowhere
	// patient has a registry waited for that hangs, since no client does.
	patient bool
	seen    time.Time // when the record that the caller found was validated; zero if there was none
	pushes  uint64    // what had been pushed by then
}

// resolved is what a tag was found to mean.
type resolved struct {
	desc    oci.Descriptor
	outcome Outcome
	fetched *manifest // where finding out has fetched it
}

// resolve asks upstream what the tag means, once for all concurrent callers under grants of a kind and with the same
// Accept. What was asked before a push is not joined after it.
func (c *Cache) resolve(ctx context.Context, q *question, known bool) (resolved, error) {
	q.pushes = c.cfg.Metadata.Pushes()
	if refusal := c.negatives.get(q.grant, q.Path, q.pushes); refusal != nil && !q.NoCache {
		return resolved{}, refusal
	}
	way := "known"
	switch {
	case q.again:
		way = "again"
	case q.patient:
		way = "patient"
	case q.purpose == ratelimit.Background:
		way = "background"
	case !known && q.Head:
		way = "head"
	case !known:
		way = "get"
	}
	key := fmt.Sprintf("tag %s %d %s %q", way, q.pushes, q.grant.Flight(), q.key.String())
	r, own, err := share(ctx, c, key, func(ctx context.Context) (resolved, error) { return c.find(ctx, q) })
	if refusal, ok := errors.AsType[*upstream.Refusal](err); ok && missing(err) {
		c.negatives.put(q.grant, q.Path, q.pushes, refusal)
	}
	if err != nil {
		return resolved{}, err
	}
	if r.outcome == StaleHit || r.outcome == Revalidated { // maybe for another caller
		return r, c.cfg.Access.Confirm(ctx, q.grant, q.Path)
	}
	if !own && r.outcome == Miss {
		r.outcome = Coalesced
	}
	return r, nil
}

// find revalidates a known tag with a HEAD, and fetches an unknown one with a GET. If upstream is in trouble the record
// is served stale.
func (c *Cache) find(ctx context.Context, q *question) (resolved, error) {
	rec, known := c.cfg.Metadata.Tag(q.key)
	if known && !q.again && rec.ValidatedAt.After(q.seen) { // by those who asked just before
		return resolved{desc: rec.Descriptor, outcome: Revalidated}, nil
	}
	if !known && !q.again {
		rec, known = c.sibling(q)
	}
	switch {
	case q.again, !known && !q.Head:
		return c.fetchTag(ctx, q)
	case !known:
		m, err := c.describe(ctx, q.grant, q.Pull)
		if err != nil {
			return resolved{}, err
		}
		c.record(q, m)
		return resolved{desc: m.Descriptor, outcome: Miss, fetched: m}, nil
	}
	r, err := c.revalidate(ctx, q, rec)
	c.rest(q.Registry, err)
	if err != nil && (passing(err) && !q.policy.NeverStale || missing(err) && q.policy.KeepMissing) {
		c.cfg.Log.Info("tag served stale", "registry", q.key.Registry, "repository", q.key.Repository, "reference", q.key.Tag, "err", err)
		if errors.Is(err, access.ErrHangs) && !q.patient {
			c.behind(q, true) // a registry that is always slow must not keep a tag from moving
		}
		return resolved{desc: rec.Descriptor, outcome: StaleHit}, nil
	}
	return r, err
}

// sibling is the latest record of the tag for clients that accept other types, if this one accepts what it means and that
// is cached. It is no answer, as the registry may choose differently for this client. But a HEAD may confirm it, which is
// no pull, and it is better than nothing while the registry cannot be asked.
func (c *Cache) sibling(q *question) (latest metadata.TagRecord, ok bool) {
	for _, rec := range c.cfg.Metadata.Tags(q.key.Registry, q.key.Repository, q.key.Tag) {
		if !rec.ValidatedAt.Before(latest.ValidatedAt) && acceptable(rec.Descriptor.MediaType, q.Accept) && c.has(rec.Descriptor.Digest) {
			latest, ok = rec, true
		}
	}
	latest.ValidatedAt = time.Time{} // by nobody, for this client
	return latest, ok
}

// fetchTag finds out what a tag means with a GET.
func (c *Cache) fetchTag(ctx context.Context, q *question) (resolved, error) {
	m, err := c.fetchManifest(ctx, q.grant, q.Pull)
	if err != nil {
		return resolved{}, err
	}
	if m.rest != nil {
		_ = m.rest.Close()
		return resolved{}, errTooLarge
	}
	if !m.plausible {
		return resolved{desc: m.Descriptor, outcome: Bypass, fetched: m}, nil
	}
	c.keep(q.grant, m)
	c.record(q, m)
	return resolved{desc: m.Descriptor, outcome: Miss, fetched: m}, nil
}

// revalidate asks whether a tag still means what it did. Where it means another manifest by now, that is fetched before
// the record changes: what cannot be had, because GETs are limited and HEADs are not, must not replace what can.
func (c *Cache) revalidate(ctx context.Context, q *question, rec metadata.TagRecord) (resolved, error) {
	if q.bounded() && c.cfg.Access.Resting(q.Registry) {
		return resolved{}, errResting
	}
	asked := q.Pull
	if !q.policy.NeverStale {
		asked.purpose = max(q.purpose, ratelimit.Revalidation)
	}
	within, cancel := c.giveUp(ctx, q)
	defer cancel()
	m, err := c.describe(within, q.grant, asked)
	if err != nil {
		return resolved{}, err
	}
	if !m.likely() {
		return resolved{}, errNoManifest
	}
	if m.Digest == rec.Descriptor.Digest {
		c.record(q, m)
		return resolved{desc: rec.Descriptor, outcome: Revalidated}, nil
	}
	if m.bytes == nil && c.has(rec.Descriptor.Digest) && !c.has(m.Digest) {
		byDigest := asked
		byDigest.Path = digestPath(q.Path, m.Digest)
		within, cancel := c.giveUp(ctx, q) // it has just answered
		defer cancel()
		m, err = c.fetchManifest(within, q.grant, byDigest)
		if missing(err) { // the tag has moved again, or the registry has named what it does not have
			return c.fetchTag(within, q)
		}
		if err != nil {
			return resolved{}, err
		}
		switch {
		case m.rest != nil:
			_ = m.rest.Close()
			return resolved{}, errTooLarge
		case !m.plausible:
			return resolved{}, errNoManifest
		}
		c.keep(q.grant, m)
	}
	c.record(q, m)
	return resolved{desc: m.Descriptor, outcome: Miss, fetched: m}, nil
}

// bounded reports whether the registry is waited for only so long, because what is known of the tag will do.
func (q *question) bounded() bool { return !q.policy.NeverStale && !q.patient }

// giveUp bounds a request about a tag of which something is known.
func (c *Cache) giveUp(ctx context.Context, q *question) (context.Context, context.CancelFunc) {
	if !q.bounded() {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, c.cfg.GiveUp, access.ErrHangs)
}

var (
	// errTooLarge sends a manifest over maxManifest past the cache, and errPassed one that a rule keeps out of it.
	errTooLarge = errors.New("manifest too large to keep")
	errPassed   = errors.New("manifest is never kept")
	// errResting and errNoManifest are reasons to serve what is stale.
	errResting    = errors.New("registry is left alone for a while")
	errNoManifest = errors.New("registry answers with something that is no manifest")
)

// passing reports whether an error speaks of upstream's passing trouble, for which a stale answer is better.
func passing(err error) bool {
	if refusal, ok := errors.AsType[*upstream.Refusal](err); ok {
		return refusal.Temporary()
	}
	if _, ok := errors.AsType[*upstream.UnreachableError](err); ok {
		return true
	}
	for _, reason := range []error{context.DeadlineExceeded, errResting, errNoManifest, errWrongManifest} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// missing reports whether the registry says that there is no such thing.
func missing(err error) bool {
	refusal, ok := errors.AsType[*upstream.Refusal](err)
	return ok && refusal.Status == http.StatusNotFound
}

// rest has a registry left alone that hangs.
func (c *Cache) rest(reg oci.Registry, err error) {
	if errors.Is(err, access.ErrHangs) {
		c.cfg.Access.Hung(reg)
	}
}

// record keeps what a tag means, where that is a manifest of a kind we know. That the registry said so links the digest
// to the repository, as a claim.
func (c *Cache) record(q *question, m *manifest) {
	if !m.likely() {
		return
	}
	before, _ := c.cfg.Metadata.Tag(q.key)
	defer c.pinTag(q.key, before, m.Digest)
	c.cfg.Metadata.PutTag(q.key, metadata.TagRecord{Descriptor: m.Descriptor, ValidatedAt: c.cfg.Now()}, q.pushes)
	c.cfg.Access.Answered(q.grant, digestPath(q.Path, m.Digest))
}

// digestPath is the path of a manifest by digest, beside p.
func digestPath(p oci.Path, d oci.Digest) oci.Path {
	p.Tag, p.Digest = "", d
	return p
}

// give turns what a tag means into content, fetching the manifest by digest if it is neither at hand nor cached.
func (c *Cache) give(ctx context.Context, q *question, r resolved) (*Content, error) {
	var notes http.Header
	if r.fetched != nil {
		notes = r.fetched.notes
	}
	if q.Head {
		if desc, ok := c.descriptor(r.desc.Digest); ok {
			r.desc = desc // what a GET would say
		}
		return &Content{Descriptor: r.desc, Outcome: r.outcome, Notes: notes}, nil
	}
	if r.fetched != nil && r.fetched.bytes != nil {
		return &Content{Descriptor: r.desc, Outcome: r.outcome, Notes: notes, Body: memoryBody(r.fetched.bytes)}, nil
	}
	byDigest := q.Pull
	byDigest.Path = digestPath(q.Path, r.desc.Digest)
	byDigest.Accept = nil // the registry chose this digest for what the client accepts
	content, err := c.manifestByDigest(ctx, byDigest, q.grant)
	if err != nil {
		return nil, err
	}
	if content.Outcome == Hit {
		content.Outcome = r.outcome
	}
	return content, nil
}
