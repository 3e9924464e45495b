package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"container-registry-proxy/internal/bundle"
	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/store/disk"
)

// Import reads a bundle into the cache directory of a configuration. It fails where a proxy runs on that.
func Import(ctx context.Context, cfg *config.Config, log *slog.Logger, from io.Reader) (bundle.Imported, error) {
	into, err := disk.Open(disk.Config{Directory: cfg.CacheDirectory, MaxSize: cfg.CacheMaxSize, MinFree: cfg.CacheMinFree, Log: log})
	if err != nil {
		return bundle.Imported{}, explainPermission(fmt.Errorf("CACHE_DIRECTORY: %w", err), cfg.CacheDirectory)
	}
	done, err := bundle.Import(ctx, from, into, metadata.New(into.DB()))
	return done, errors.Join(err, into.Close())
}
