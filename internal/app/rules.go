package app

import (
	"log/slog"
	"path/filepath"

	"container-registry-proxy/internal/client"
	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registry"
	"container-registry-proxy/internal/secret"
)

// live is what a reload replaces while the proxy serves: as a whole, so that no request sees a half of it.
type live struct {
	cfg   *config.Config
	rules registry.Rules
	guard *client.Guard
}

func newLive(cfg *config.Config) *live {
	return &live{cfg: cfg, rules: rulesOf(cfg), guard: client.New(cfg.Clients)}
}

// rulesOf is what the configuration allows clients to do at registries.
func rulesOf(cfg *config.Config) registry.Rules {
	return registry.Rules{
		AllowPush: cfg.AllowPush, AllowPushWithOwnAuth: cfg.AllowPushWithOwnAuth, BufferRequests: cfg.RequestBuffering,
		OwnFirst: cfg.AllowOwnAuth || cfg.AllowPush || cfg.AllowPushWithOwnAuth,
		PushCentral: func(reg oci.Registry, repository string) bool {
			for _, c := range cfg.PushCentral {
				if host, err := credential.ParseHost(c.Host); err == nil && host == reg && credential.Within(repository, c.Repository) {
					return true
				}
			}
			return false
		},
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
