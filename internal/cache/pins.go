package cache

import (
	"io"
	"sync"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/pull"
)

// Pins are the digests that must not be evicted: all that pinned images consist of, whether it is here yet or not. A Pins
// is made before the store, which asks it, and is filled by the cache.
type Pins struct {
	mu      sync.RWMutex // guards digests
	digests map[oci.Digest]bool
}

// NewPins returns pins of nothing.
func NewPins() *Pins { return &Pins{digests: map[oci.Digest]bool{}} }

// Has reports whether a digest is pinned. It never waits for I/O.
func (p *Pins) Has(d oci.Digest) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.digests[d]
}

func (p *Pins) add(digests ...oci.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range digests {
		p.digests[d] = true
	}
}

func (p *Pins) set(digests map[oci.Digest]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.digests = digests
}

// repin finds out anew what is pinned: what pinned tags mean to whichever client, and pinned digests. What a tag meant
// before it moved is pinned no longer.
func (c *Cache) repin() {
	found := map[oci.Digest]bool{}
	for _, ref := range c.cfg.Freshness.Pins() {
		if ref.Digest != "" {
			c.collect(ref.Digest, found)
			continue
		}
		for _, rec := range c.cfg.Metadata.Tags(ref.Registry, ref.Repository, ref.Tag) {
			c.collect(rec.Descriptor.Digest, found)
		}
	}
	c.cfg.Pins.set(found)
}

// collect adds a digest and, as far as it is a manifest that is here, what that names.
func (c *Cache) collect(d oci.Digest, found map[oci.Digest]bool) {
	if found[d] {
		return
	}
	found[d] = true
	if c.cfg.Metadata.MediaType(d) == "" {
		return
	}
	body, size, ok := c.open(d)
	if !ok {
		return
	}
	defer body.Close()
	if size > maxManifest {
		return
	}
	b, err := io.ReadAll(body.Range(0, size))
	if err != nil {
		return // damaged: what it names is pinned once it has been fetched again
	}
	for _, child := range pull.Children(b) {
		c.collect(child, found)
	}
}

// pinTag pins what a tag is recorded to mean, before its layers come. Where it has moved what it meant is unpinned.
func (c *Cache) pinTag(k metadata.TagKey, before metadata.TagRecord, d oci.Digest) {
	if !c.cfg.Freshness.Pinned(k.Registry, k.Repository, k.Tag) {
		return
	}
	if before.Descriptor.Digest != "" && before.Descriptor.Digest != d {
		c.repin()
		return
	}
	if c.cfg.Pins.Has(d) {
		return
	}
	found := map[oci.Digest]bool{}
	c.collect(d, found)
	for digest := range found {
		c.cfg.Pins.add(digest)
	}
}

// pinManifest pins what a manifest names that is pinned itself.
func (c *Cache) pinManifest(g access.Grant, m *manifest) {
	if c.cfg.Freshness.PinnedDigest(g.Registry, g.Repository, m.Digest) {
		c.cfg.Pins.add(m.Digest)
	}
	if c.cfg.Pins.Has(m.Digest) {
		c.cfg.Pins.add(pull.Children(m.bytes)...)
	}
}
