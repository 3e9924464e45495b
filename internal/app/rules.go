package app

import (
	"log/slog"
	"path/filepath"

	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/registry"
	"container-registry-proxy/internal/secret"
)

// rulesOf is what the configuration allows clients to do at registries.
func rulesOf(cfg *config.Config) registry.Rules {
	return registry.Rules{
		AllowPush: cfg.AllowPush, AllowPushWithOwnAuth: cfg.AllowPushWithOwnAuth, BufferRequests: cfg.RequestBuffering,
		OwnFirst: cfg.AllowOwnAuth || cfg.AllowPush || cfg.AllowPushWithOwnAuth,
	}
}

// hasher has the key for the fingerprints of logins in the cache directory, beside what they give access to. Where it
// cannot be kept a restart forgets whose logins were taken.
func hasher(cfg *config.Config, log *slog.Logger) *secret.Hasher {
	h, err := secret.OpenHasher(filepath.Join(cfg.CacheDirectory, "key"))
	if err != nil {
		log.Warn("registries will be asked about every client's login again after a restart", "err", err)
		return secret.NewHasher()
	}
	return h
}
