package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/upstream"
)

// maxManifest is up to what size a manifest is read into memory and kept; the distribution spec asks registries to take
// at least this much. A larger one passes through.
const maxManifest = 4 << 20

// Manifest returns a manifest by tag or by digest. Errors are the registry's [*upstream.Refusal], or that it cannot be
// reached and nothing cached will do.
func (c *Cache) Manifest(ctx context.Context, p Pull) (*Content, error) {
	return c.orFallBack(ctx, p, c.manifestOf)
}

// manifestOf is Manifest for one registry.
func (c *Cache) manifestOf(ctx context.Context, p Pull) (*Content, error) {
	g := c.cfg.Access.Grant(ctx, p.Caller, p.Registry, p.Path)
	if p.Background {
		p.purpose = ratelimit.Background
	}
	content, err := c.manifest(ctx, p, g)
	if other, ok := c.cfg.Access.Otherwise(ctx, g, err); ok {
		g = other
		content, err = c.manifest(ctx, p, g)
	}
	if err == nil {
		c.prefetch(p, g, content)
	}
	return content, err
}

func (c *Cache) manifest(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	if p.Path.Tag != "" {
		return c.tag(ctx, p, g)
	}
	return c.manifestByDigest(ctx, p, g)
}

// manifestByDigest returns the manifest from the cache, or fetches it once for all who ask under grants of a kind.
func (c *Cache) manifestByDigest(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	if content, err := c.keptManifest(ctx, p, g); content != nil || err != nil {
		return content, err
	}
	if p.Head {
		m, err := c.describe(ctx, g, p)
		if err != nil {
			return nil, err
		}
		return &Content{Descriptor: m.Descriptor, Outcome: Miss, Notes: m.notes}, nil
	}
	m, own, err := c.fetchOnce(ctx, p, g)
	switch {
	case errors.Is(err, errTooLarge):
		return c.passManifest(ctx, p, g)
	case errors.Is(err, errKept):
		if content, err := c.keptManifest(ctx, p, g); content != nil || err != nil {
			return content, err
		}
		return c.passManifest(ctx, p, g) // it was evicted at once
	case err != nil:
		return nil, err
	}
	content := &Content{Descriptor: m.Descriptor, Outcome: Miss, Notes: m.notes, Body: memoryBody(m.bytes)}
	if !own {
		content.Outcome = Coalesced
	}
	return content, nil
}

// keptManifest returns the manifest from the cache, or nil where it has to be fetched.
func (c *Cache) keptManifest(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	mediaType := c.cfg.Metadata.MediaType(p.Path.Digest)
	if mediaType == "" || !acceptable(mediaType, p.Accept) {
		return nil, nil
	}
	body, size, ok := c.open(p.Path.Digest)
	if !ok {
		return nil, nil
	}
	if err := c.permitted(ctx, g, p.Path); err != nil {
		_ = body.Close()
		if errors.Is(err, access.ErrUnproven) { // to fetch it proves it
			return nil, nil
		}
		return nil, err
	}
	return &Content{Descriptor: oci.Descriptor{MediaType: mediaType, Digest: p.Path.Digest, Size: size}, Outcome: Hit, Body: body}, nil
}

// errKept says that a manifest need not be fetched: those who asked just before have done so.
var errKept = errors.New("manifest is kept by now")

// fetchOnce fetches a manifest by digest for all who ask at the same time, and keeps it.
func (c *Cache) fetchOnce(ctx context.Context, p Pull, g access.Grant) (m *manifest, own bool, err error) {
	key := fmt.Sprintf("manifest %d %s %q %q %q", p.purpose, g.Flight(), g.Registry, p.Path.String(), normalAccept(p.Accept))
	return share(ctx, c, key, func(ctx context.Context) (*manifest, error) {
		if content, err := c.keptManifest(ctx, p, g); err != nil {
			return nil, err
		} else if content != nil {
			return nil, errors.Join(errKept, content.Close())
		}
		m, err := c.fetchManifest(ctx, g, p)
		if err == nil && m.rest != nil {
			_ = m.rest.Close() // one body cannot be given to many: each asks for its own
			return nil, errTooLarge
		}
		if err == nil {
			c.keep(g, m)
		}
		return m, err
	})
}

// manifest is a manifest as a registry delivered it, or described it: then its bytes are nil.
type manifest struct {
	oci.Descriptor
	bytes     []byte
	plausible bool          // the bytes are a manifest of that type
	rest      io.ReadCloser // of one that is too large to be read into memory: all of it
	notes     http.Header
}

// fetchManifest GETs a manifest and checks it against the digest that was asked for or that the registry named.
func (c *Cache) fetchManifest(ctx context.Context, g access.Grant, p Pull) (*manifest, error) {
	resp, err := c.askFor(ctx, g, p.purpose, http.MethodGet, p.Path, http.Header{"Accept": slices.Clone(p.Accept)})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, g.Refusal(resp)
	}
	if err := decode(resp); err != nil {
		return nil, unusable(g, resp, err)
	}
	c.cfg.Access.Answered(g, p.Path)
	b, err := readManifest(resp)
	if err != nil {
		return nil, unusable(g, resp, fmt.Errorf("read manifest: %w", err))
	}
	m := &manifest{bytes: b, notes: notes(resp.Header)}
	m.MediaType = resp.Header.Get("Content-Type")
	m.Digest = p.Path.Digest
	if named, err := oci.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil && m.Digest == "" {
		m.Digest = named
	}
	if len(b) > maxManifest {
		m.bytes, m.Size = nil, resp.ContentLength
		m.rest = joinedBody{io.MultiReader(bytes.NewReader(b), resp.Body), resp.Body}
		return m, nil
	}
	_ = resp.Body.Close()
	m.Size = int64(len(b))
	if err := m.verify(); err != nil {
		return nil, err
	}
	m.plausible = plausible(b, m.MediaType)
	if first := c.cfg.Metadata.MediaType(m.Digest); first != "" && m.plausible {
		m.MediaType = first // the same bytes always have the same type
	}
	return m, nil
}

// readManifest reads up to one byte more than a manifest may have.
func readManifest(resp *http.Response) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(int(min(max(resp.ContentLength, 0), maxManifest)) + bytes.MinRead)
	_, err := b.ReadFrom(io.LimitReader(resp.Body, maxManifest+1))
	return b.Bytes(), err
}

// errWrongManifest says that a registry sent other bytes than those of the digest that was asked for or that it named.
var errWrongManifest = &oci.Error{Code: oci.CodeManifestInvalid, HTTPStatus: http.StatusBadGateway, Message: "upstream sent a manifest that is not what its digest says: nothing was kept, try again"}

// verify checks the bytes against the digest, or gives them one.
func (m *manifest) verify() error {
	if m.Digest == "" {
		m.Digest = oci.FromBytes(m.bytes)
		return nil
	}
	h := m.Digest.Hash()
	_, _ = h.Write(m.bytes)
	if !m.Digest.Matches(h) {
		return errWrongManifest
	}
	return nil
}

// unusable gives up a response in which something is wrong.
func unusable(g access.Grant, resp *http.Response, err error) error {
	_ = resp.Body.Close()
	if unreachable, ok := errors.AsType[*upstream.UnreachableError](err); ok {
		return unreachable
	}
	return &upstream.UnreachableError{Registry: g.Registry, Err: err}
}

// keep stores a manifest, unless its type is in doubt: then it is served this once and asked for again. It is on disk
// some time later; nobody waits for that.
func (c *Cache) keep(g access.Grant, m *manifest) {
	if !m.plausible {
		return
	}
	m.MediaType = c.cfg.Metadata.PutMediaType(m.Digest, m.MediaType)
	c.cfg.Access.Delivered(g, m.Digest)
	c.pinManifest(g, m)
	if c.has(m.Digest) {
		return
	}
	c.memory.put(m.Digest, m.bytes)
	c.commit(m.Digest, m.bytes)
}

// commit stores small verified bytes.
func (c *Cache) commit(d oci.Digest, b []byte) {
	c.commits.Go(func() {
		if err := c.store(d, b); err != nil {
			c.cfg.Log.Debug("served but not stored", "digest", d, "err", err)
		}
	})
}

func (c *Cache) store(d oci.Digest, b []byte) error {
	verifier := store.NewVerifier(d)
	_, _ = verifier.Write(b)
	proof, err := verifier.Proof()
	if err != nil {
		return err
	}
	stage, err := c.cfg.Store.Stage(d, int64(len(b)))
	if err != nil {
		return err
	}
	if _, err := stage.WriteAt(b, 0); err != nil {
		return errors.Join(err, stage.Discard())
	}
	return errors.Join(stage.Commit(context.Background(), proof), stage.Close())
}

// passManifest hands a manifest on that is too large to be kept.
func (c *Cache) passManifest(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	if p.Head {
		m, err := c.describe(ctx, g, p)
		if err != nil {
			return nil, err
		}
		return &Content{Descriptor: m.Descriptor, Outcome: Bypass, Notes: m.notes}, nil
	}
	m, err := c.fetchManifest(ctx, g, p)
	if err != nil {
		return nil, err
	}
	content := &Content{Descriptor: m.Descriptor, Outcome: Bypass, Notes: m.notes, Body: memoryBody(m.bytes)}
	if m.rest != nil {
		content.Body, err = passage(ctx, m)
	}
	return content, err
}

// describe asks for a manifest's descriptor with a HEAD, which registries do not count as a pull. A registry that
// answers it oddly is asked with a GET, and not with a HEAD again for a while.
func (c *Cache) describe(ctx context.Context, g access.Grant, p Pull) (*manifest, error) {
	if !c.odd.Has(g.Registry) {
		m, err := c.head(ctx, g, p)
		if !errors.Is(err, errOddHead) {
			return m, err
		}
	}
	m, err := c.fetchManifest(ctx, g, p)
	if err != nil {
		return nil, err
	}
	if m.plausible {
		c.odd.Add(g.Registry, oddFor) // the GET succeeds where the HEAD does not
	}
	if m.rest != nil {
		_ = m.rest.Close()
		if m.Size < 0 || m.Digest == "" {
			return nil, errTooLarge
		}
		m.rest = nil
		return m, nil
	}
	c.keep(g, m)
	return m, nil
}

// errOddHead says that a HEAD was answered in a way that tells nothing.
var errOddHead = errors.New("registry answers a HEAD oddly")

// head is describe's first attempt.
func (c *Cache) head(ctx context.Context, g access.Grant, p Pull) (*manifest, error) {
	resp, err := c.askFor(ctx, g, p.purpose, http.MethodHead, p.Path, http.Header{"Accept": slices.Clone(p.Accept)})
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		_ = resp.Body.Close() // a HEAD has none
	case http.StatusMethodNotAllowed, http.StatusForbidden, http.StatusNotImplemented:
		_ = resp.Body.Close()
		return nil, errOddHead
	default:
		return nil, g.Refusal(resp)
	}
	m := &manifest{notes: notes(resp.Header)}
	m.MediaType, m.Size, m.Digest = resp.Header.Get("Content-Type"), resp.ContentLength, p.Path.Digest
	if m.Digest == "" {
		m.Digest, err = oci.ParseDigest(resp.Header.Get("Docker-Content-Digest"))
	}
	if err != nil || m.Size < 0 || resp.Header.Get("Content-Encoding") != "" {
		return nil, errOddHead
	}
	c.cfg.Access.Answered(g, p.Path)
	return m, nil
}
