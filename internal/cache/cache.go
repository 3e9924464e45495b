// Package cache decides what a pull is answered with. A blob, or a manifest asked for by digest, never changes: it is
// opened from the store or filled once from upstream, however many clients ask. A tag is looked up in the metadata;
// while fresh its digest is served without asking, once stale it is revalidated with a HEAD, which costs no pull, and
// if upstream cannot answer the stale digest is served and marked so. What is a client's own passes through: it is
// neither kept nor given to anybody else.
//
// Its invariant: content of the store leaves only under a grant of package access that covers its digest. Package cache
// takes no HTTP requests and writes no HTTP responses.
package cache

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/sync/singleflight"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/fill"
	"container-registry-proxy/internal/freshness"
	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/upstream"
)

// Outcome says how a request was answered; it is a label of metrics and a key of the access log.
type Outcome string

// The outcomes.
const (
	Hit         Outcome = "hit"         // from the cache, upstream untouched
	Miss        Outcome = "miss"        // fetched from upstream
	StaleHit    Outcome = "stale_hit"   // from the cache because upstream cannot answer
	Revalidated Outcome = "revalidated" // from the cache after upstream confirmed it
	Coalesced   Outcome = "coalesced"   // from a fetch that another request had begun
	Bypass      Outcome = "bypass"      // passed through, neither kept nor shared
)

// Registries is the client towards registries.
type Registries interface {
	Do(ctx context.Context, req upstream.Request) (*http.Response, error)
}

// Config has what Cache needs; Log and Now may be nil, MemorySize 0 means 64 MiB.
type Config struct {
	Store      store.Store
	Metadata   *metadata.Metadata
	Access     *access.Access
	Registries Registries
	Freshness  *freshness.Rules
	// MemorySize bounds the bytes of small objects, manifests above all, that are kept in memory.
	MemorySize int64
	Log        *slog.Logger
	Now        func() time.Time
}

// Cache answers pulls. It is safe for concurrent use.
type Cache struct {
	cfg     Config
	fills   *fill.Fills
	memory  *memory
	flights singleflight.Group
}

// Pull is what a client asks for.
type Pull struct {
	Caller   access.Caller
	Registry oci.Registry
	Path     oci.Path // of a blob or a manifest
	// Accept has the media types the client takes, as its Accept headers list them; empty means all.
	Accept []string
	// Want is the part of a blob that will be read first, as far as the request says; an End of -1 means the whole.
	Want store.Extent
	// Head asks for the descriptor alone.
	Head bool
	// NoCache asks for a tag to be revalidated, however fresh.
	NoCache bool
}

// New returns a cache over cfg.
func New(cfg Config) *Cache {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MemorySize == 0 {
		cfg.MemorySize = 64 << 20
	}
	c := &Cache{cfg: cfg, memory: newMemory(cfg.MemorySize)}
	c.fills = fill.New(fill.Config{Store: cfg.Store, Log: cfg.Log, Verified: c.delivered})
	return c
}

// Close ends the fills in progress and waits for them.
func (c *Cache) Close() { c.fills.Close() }

// Fills is the number of downloads in progress.
func (c *Cache) Fills() int { return c.fills.InProgress() }

// ForgetTag drops what is known of a tag, after a push of it.
func (c *Cache) ForgetTag(reg oci.Registry, repository, tag string) {
	c.cfg.Metadata.ForgetTag(reg, repository, tag)
}

// delivered records that the bytes of a digest came from a source and were the digest's.
func (c *Cache) delivered(d oci.Digest, src fill.Source) {
	c.cfg.Access.Delivered(src.(*source).grant, d)
}
