package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/upstream"
)

// maxManifest is up to what size a manifest is read into memory and kept; the distribution spec asks registries to take
// at least this much. A larger one passes through.
const maxManifest = 4 << 20

// Manifest returns a manifest by tag or by digest. Errors are the registry's [*upstream.Refusal], or that it cannot be
// reached and nothing cached will do.
func (c *Cache) Manifest(ctx context.Context, p Pull) (*Content, error) {
	g := c.cfg.Access.Grant(ctx, p.Caller, p.Registry, p.Path)
	switch {
	case g.Class == access.Own:
		return c.passManifest(ctx, p, g)
	case p.Path.Tag != "":
		return c.tag(ctx, p, g)
	}
	return c.manifestByDigest(ctx, p, g)
}

// manifestByDigest returns the manifest from the cache, or fetches it once for all who ask as the same identity.
func (c *Cache) manifestByDigest(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	d := p.Path.Digest
	if mediaType := c.cfg.Metadata.MediaType(d); mediaType != "" && acceptable(mediaType, p.Accept) {
		if body, size, ok := c.open(d); ok {
			if err := c.permitted(ctx, g, p.Path); err != nil {
				_ = body.Close()
				return nil, err
			}
			return &Content{Descriptor: oci.Descriptor{MediaType: mediaType, Digest: d, Size: size}, Outcome: Hit, Body: body}, nil
		}
	}
	if p.Head {
		return c.headManifest(ctx, p, g)
	}
	m, leader, err := c.coalesce(ctx, g, p, "manifest")
	if err != nil {
		return nil, err
	}
	return m.content(leader), nil
}

// manifest is a manifest as a registry delivered it.
type manifest struct {
	oci.Descriptor
	bytes []byte
	// passed is the response, for a manifest too large to be read into memory.
	passed *http.Response
}

func (m manifest) content(leader bool) *Content {
	if m.passed != nil {
		return &Content{Outcome: Bypass, Passed: m.passed}
	}
	outcome := Miss
	if !leader {
		outcome = Coalesced
	}
	return &Content{Descriptor: m.Descriptor, Outcome: outcome, Body: memoryBody(m.bytes)}
}

// coalesce fetches a manifest once for all concurrent callers that ask for the same, as the same identity, accepting
// the same. A caller that leaves does not end the fetch.
func (c *Cache) coalesce(ctx context.Context, g access.Grant, p Pull, purpose string) (m manifest, leader bool, err error) {
	key := fmt.Sprintf("%s %x %q %q %q", purpose, g.As.Key(), g.Registry, p.Path.String(), normalAccept(p.Accept))
	result := c.flights.DoChan(key, func() (any, error) {
		leader = true // written before the result is sent
		m, err := c.fetchManifest(context.WithoutCancel(ctx), g, p)
		switch {
		case err != nil:
		case m.passed != nil:
			_ = m.passed.Body.Close() // one body cannot be given to many: each asks for its own
		default:
			c.keep(context.WithoutCancel(ctx), g, m)
		}
		return m, err
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return manifest{}, leader, r.Err
		}
		if m = r.Val.(manifest); m.passed != nil {
			m, err = c.fetchManifest(ctx, g, p)
			return m, true, err
		}
		return m, leader, nil
	case <-ctx.Done():
		return manifest{}, false, context.Cause(ctx)
	}
}

// fetchManifest GETs a manifest and checks it against the digest that was asked for or that the registry named.
func (c *Cache) fetchManifest(ctx context.Context, g access.Grant, p Pull) (manifest, error) {
	resp, err := c.ask(ctx, g, http.MethodGet, p.Path, http.Header{"Accept": slices.Clone(p.Accept)})
	if err != nil {
		return manifest{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return manifest{}, upstream.NewRefusal(resp)
	}
	c.cfg.Access.Answered(g)
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		_ = resp.Body.Close()
		return manifest{}, &upstream.UnreachableError{Registry: g.Registry, Err: fmt.Errorf("read manifest: %w", err)}
	}
	if len(b) > maxManifest {
		resp.Body = joinedBody{io.MultiReader(bytes.NewReader(b), resp.Body), resp.Body}
		return manifest{passed: resp}, nil
	}
	_ = resp.Body.Close()
	d, err := digestOf(b, p.Path.Digest, resp.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return manifest{}, err
	}
	return manifest{oci.Descriptor{MediaType: resp.Header.Get("Content-Type"), Digest: d, Size: int64(len(b))}, b, nil}, nil
}

// digestOf returns the digest of b, which must be the one that was asked for, if any, and the one the registry named,
// if it named one we can verify.
func digestOf(b []byte, asked oci.Digest, named string) (oci.Digest, error) {
	want := asked
	if want == "" {
		if named, err := oci.ParseDigest(named); err == nil {
			want = named
		}
	}
	if want == "" {
		return oci.FromBytes(b), nil
	}
	h := want.Hash()
	_, _ = h.Write(b)
	if !want.Matches(h) {
		return "", &oci.Error{Code: oci.CodeManifestInvalid, HTTPStatus: http.StatusBadGateway, Message: fmt.Sprintf("upstream sent a manifest that is not %s", want)}
	}
	return want, nil
}

// keep stores a manifest, unless its type is in doubt: then it is served this once and asked for again.
func (c *Cache) keep(ctx context.Context, g access.Grant, m manifest) {
	if g.Class == access.Own || !plausible(m.bytes, m.MediaType) {
		return
	}
	c.memory.put(m.Digest, m.bytes)
	c.cfg.Metadata.PutMediaType(m.Digest, m.MediaType)
	c.cfg.Access.Delivered(g, m.Digest)
	if err := c.commit(ctx, m); err != nil {
		c.cfg.Log.Debug("manifest is served but not stored", "digest", m.Digest, "err", err)
	}
}

// commit stores a manifest's bytes.
func (c *Cache) commit(ctx context.Context, m manifest) error {
	verifier := store.NewVerifier(m.Digest)
	_, _ = io.Copy(verifier, bytes.NewReader(m.bytes))
	proof, err := verifier.Proof()
	if err != nil {
		return err
	}
	stage, err := c.cfg.Store.Stage(m.Digest, m.Size)
	if err != nil {
		return err
	}
	if _, err := stage.WriteAt(m.bytes, 0); err != nil {
		return errors.Join(err, stage.Discard())
	}
	return errors.Join(stage.Commit(ctx, proof), stage.Close())
}

// plausible reports whether b is a manifest of the type its registry gave: a JSON object whose own mediaType, if it has
// one, agrees, and which is not an index and an image at once (CVE-2021-41190).
func plausible(b []byte, contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil || !(strings.HasPrefix(mediaType, "application/") && (strings.HasSuffix(mediaType, "json") || strings.HasSuffix(mediaType, "+prettyjws"))) {
		return false
	}
	var doc struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
		Config        json.RawMessage `json:"config"`
	}
	if json.Unmarshal(b, &doc) != nil || (doc.SchemaVersion == 0 && doc.MediaType == "") {
		return false
	}
	if doc.Manifests != nil && (doc.Layers != nil || doc.Config != nil) {
		return false
	}
	return doc.MediaType == "" || doc.MediaType == mediaType
}

// headManifest answers a HEAD for a manifest by digest that is not cached.
func (c *Cache) headManifest(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	desc, err := c.describe(ctx, g, p)
	if err != nil {
		return nil, err
	}
	return &Content{Descriptor: desc, Outcome: Miss}, nil
}

// passManifest hands a manifest on to the caller whose own it is, keeping nothing.
func (c *Cache) passManifest(ctx context.Context, p Pull, g access.Grant) (*Content, error) {
	if p.Head {
		desc, err := c.describe(ctx, g, p)
		return &Content{Descriptor: desc, Outcome: Bypass}, err
	}
	m, err := c.fetchManifest(ctx, g, p)
	if err != nil {
		return nil, err
	}
	content := m.content(true)
	content.Outcome = Bypass
	return content, nil
}

// describe asks for a manifest's descriptor with a HEAD, which registries do not count as a pull. A registry that
// answers it oddly (405, 403, no digest) is asked with a GET.
func (c *Cache) describe(ctx context.Context, g access.Grant, p Pull) (oci.Descriptor, error) {
	resp, err := c.ask(ctx, g, http.MethodHead, p.Path, http.Header{"Accept": slices.Clone(p.Accept)})
	if err != nil {
		return oci.Descriptor{}, err
	}
	defer resp.Body.Close()
	d, perr := p.Path.Digest, error(nil)
	if d == "" {
		d, perr = oci.ParseDigest(resp.Header.Get("Docker-Content-Digest"))
	}
	odd := resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusForbidden ||
		resp.StatusCode == http.StatusOK && (perr != nil || resp.ContentLength < 0)
	switch {
	case odd:
		m, err := c.fetchManifest(ctx, g, p)
		if err != nil {
			return oci.Descriptor{}, err
		}
		if m.passed != nil {
			_ = m.passed.Body.Close()
			return oci.Descriptor{}, &oci.Error{Code: oci.CodeManifestInvalid, HTTPStatus: http.StatusBadGateway, Message: "manifest is larger than 4 MiB"}
		}
		c.keep(ctx, g, m)
		return m.Descriptor, nil
	case resp.StatusCode != http.StatusOK:
		return oci.Descriptor{}, upstream.NewRefusal(resp)
	}
	c.cfg.Access.Answered(g)
	return oci.Descriptor{MediaType: resp.Header.Get("Content-Type"), Digest: d, Size: resp.ContentLength}, nil
}

// joinedBody is a body whose beginning has been read already.
type joinedBody struct {
	io.Reader
	io.Closer
}
