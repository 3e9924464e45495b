package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/pull"
	"container-registry-proxy/internal/store"
)

const (
	// yieldEvery is how often what nobody waits for looks whether clients are being served.
	yieldEvery = 250 * time.Millisecond
	// busy is the number of downloads in progress beside which none is begun that nobody waits for.
	busy = 2
	// maxPrefetches bounds the manifests whose layers wait to be prefetched: more are forgotten, not queued.
	maxPrefetches = 16
)

// Fetch has a blob fetched that nobody waits for, unless it is cached: once few downloads are in progress, as what is
// left of the registry's limit is for clients.
func (c *Cache) Fetch(ctx context.Context, p Pull) error {
	p.Background, p.Want = true, store.Extent{End: -1}
	if err := c.Yield(ctx); err != nil {
		return err
	}
	content, err := c.Blob(ctx, p)
	if err != nil {
		return err
	}
	defer content.Close()
	if content.Body.Verified() {
		return nil
	}
	_, err = io.Copy(io.Discard, content.Body.Range(0, content.Descriptor.Size))
	return err
}

// Yield waits while clients keep the proxy busy.
func (c *Cache) Yield(ctx context.Context) error {
	for c.Fills() >= busy {
		timer := time.NewTimer(yieldEvery)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
	return nil
}

// prefetch has the layers of an image fetched that a client has begun to pull: of the platform that it pulls, since it
// is that platform's manifest that it asks for.
func (c *Cache) prefetch(p Pull, g access.Grant, content *Content) {
	if !c.cfg.Prefetch || p.Head || p.Background || g.Class == access.Own || content.Body == nil || content.Outcome == Bypass {
		return
	}
	b, ok := content.Body.(memoryBody)
	if !ok {
		return // of no size that a manifest has
	}
	if c.prefetching.Add(1) > maxPrefetches {
		c.prefetching.Add(-1)
		return
	}
	c.background.Go(func() { // Close waits for it
		defer c.prefetching.Add(-1)
		c.fetchLayers(p, b)
	})
}

// fetchLayers fetches those layers of an image that are not cached, until one cannot be had.
func (c *Cache) fetchLayers(p Pull, manifest []byte) {
	for _, blob := range pull.Layers(manifest) {
		if c.has(blob.Digest) {
			continue
		}
		one := Pull{Caller: p.Caller, Registry: p.Registry, Path: oci.Path{Kind: oci.KindBlob, Repository: p.Path.Repository, Digest: blob.Digest}}
		if err := c.Fetch(c.ctx, one); err != nil && !errors.Is(err, context.Canceled) {
			c.cfg.Log.Info("layer not prefetched", "registry", string(p.Registry), "repository", p.Path.Repository, "digest", blob.Digest, "err", err)
			return
		}
	}
}

// Source has the cache's content as one that package pull knows, and what is not cached from its registry, as nobody
// waits for it.
type Source struct{ *Cache }

// Manifest implements [pull.Source].
func (s Source) Manifest(ctx context.Context, ref oci.Reference) (string, []byte, error) {
	content, err := s.Cache.Manifest(ctx, Pull{Registry: ref.Registry, Path: ref.Manifest(), Accept: pull.Accept, NoCache: true, Background: true})
	if err != nil {
		return "", nil, err
	}
	defer content.Close()
	if content.Descriptor.Size > maxManifest {
		return "", nil, fmt.Errorf("manifest has more than %d bytes", maxManifest)
	}
	body, err := io.ReadAll(content.Body.Range(0, content.Descriptor.Size))
	return content.Descriptor.MediaType, body, err
}

// Blob implements [pull.Source].
func (s Source) Blob(ctx context.Context, ref oci.Reference, d oci.Digest) (io.ReadCloser, error) {
	content, err := s.Cache.Blob(ctx, Pull{Registry: ref.Registry, Path: ref.Blob(d), Background: true, Want: store.Extent{End: -1}})
	if err != nil {
		return nil, err
	}
	return joinedBody{content.Body.Range(0, content.Descriptor.Size), content}, nil
}
