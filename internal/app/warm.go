package app

import (
	"context"
	"io"
	"log/slog"
	"time"

	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/pull"
)

// keepWarm pulls the images of a list into the cache, at the start and every so often, until ctx ends. It yields to
// clients: a blob at a time, and none while they keep the proxy busy.
func keepWarm(ctx context.Context, c *cache.Cache, list config.WarmList, log *slog.Logger) error {
	platforms, err := oci.ParsePlatforms(list.Platforms)
	if err != nil {
		return err // config has checked them
	}
	every := time.NewTicker(list.Every)
	defer every.Stop()
	for {
		warm := 0
		for _, ref := range list.Images {
			if err := warmImage(ctx, c, ref, platforms); err != nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				log.Warn("image not warmed", "image", ref.String(), "err", err)
				continue
			}
			warm++
		}
		log.Info("images are warm", "images", warm, "of", len(list.Images))
		select {
		case <-every.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// warmImage has an image fetched, as far as it is not cached.
func warmImage(ctx context.Context, c *cache.Cache, ref oci.Reference, platforms oci.Platforms) error {
	src := cache.Source{Cache: c}
	image, err := pull.Find(ctx, src, ref, platforms)
	if err != nil {
		return err
	}
	for _, blob := range image.Blobs {
		if err := c.Yield(ctx); err != nil {
			return err
		}
		if err := pull.Copy(ctx, src, ref, blob.Digest, io.Discard); err != nil {
			return err
		}
	}
	return nil
}
