// Package cache decides what a pull is answered with. A blob, or a manifest asked for by digest, never changes: it is
// opened from the store or filled once from upstream, however many clients ask. A tag is looked up in the metadata;
// while fresh its digest is served without asking, once stale it is revalidated with a HEAD, which costs no pull, and
// if upstream cannot answer the stale digest is served and marked so.
//
// Its invariant: content of the store leaves only under a grant of package access that covers its digest. Package cache
// takes no HTTP requests and writes no HTTP responses.
package cache

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/fill"
	"container-registry-proxy/internal/freshness"
	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/until"
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
	Bypass      Outcome = "bypass"      // passed through, not kept
)

// Registries is the client towards registries.
type Registries interface {
	Do(ctx context.Context, req upstream.Request) (*http.Response, error)
}

// Config has what Cache needs; what follows Freshness may be left out.
type Config struct {
	Store      store.Store
	Metadata   *metadata.Metadata
	Access     *access.Access
	Registries Registries
	Freshness  *freshness.Rules
	// Pins are told what is pinned; nil means that nobody asks.
	Pins *Pins
	// Prefetch has the layers of an image fetched once a client asks for its manifest.
	Prefetch bool
	// MemorySize bounds the bytes of small objects, manifests above all, that are kept in memory; 0 means 64 MiB.
	MemorySize int64
	// GiveUp is how long a registry that hangs is waited for where a stale answer is at hand; 0 means 3 s.
	GiveUp time.Duration
	// Fill says how downloads go; its Store, Log, Registerer, Verified and ConnectionsTo are set here.
	Fill fill.Config
	// Connections is over how many a large blob of a registry may be fetched, where that registry has a value of its own;
	// 0 means that it has none, and nil that no registry has.
	Connections func(oci.Registry) int
	// Fallbacks are the registries that stand in for one, in the order to try them; nil means that none does.
	Fallbacks func(oci.Registry) []oci.Registry
	Log       *slog.Logger
	// Registerer receives the metrics; nil means none are kept.
	Registerer prometheus.Registerer
	Now        func() time.Time
}

const (
	// oddFor is how long a registry that answers a HEAD oddly is asked with a GET at once.
	oddFor = 10 * time.Minute
	// maxOdd bounds the registries that are remembered as such; to forget one costs it a HEAD.
	maxOdd = 1024
)

// Cache answers pulls. It is safe for concurrent use.
type Cache struct {
	cfg          Config
	fills        *fill.Fills
	proofs       *proofs
	memory       *memory
	flights      singleflight.Group
	commits      sync.WaitGroup  // of manifests, which are given out before they are on disk
	ctx          context.Context // of what goes on behind clients' backs; Close ends it
	cancel       context.CancelFunc
	background   sync.WaitGroup
	prefetching  atomic.Int32
	revalidating sync.Map                 // of metadata.TagKey: being revalidated in the background
	odd          *until.Set[oci.Registry] // of whose manifests a HEAD tells nothing
	negatives    *negatives
	lists        *otter.Cache[string, *keptList]
	proved       prometheus.Counter
	fallbacks    prometheus.Counter
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
	// Background says that no client waits for it.
	Background bool

	purpose ratelimit.Purpose
	insist  bool // see source
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
	if cfg.Pins == nil {
		cfg.Pins = NewPins()
	}
	if cfg.GiveUp == 0 {
		cfg.GiveUp = 3 * time.Second
	}
	cfg.Registries = cfg.Access.Watch(cfg.Registries)
	c := &Cache{cfg: cfg, memory: newMemory(cfg.MemorySize, cfg.Now), odd: until.New[oci.Registry](cfg.Now, maxOdd), negatives: newNegatives(cfg.Now), lists: newLists()}
	c.proved = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "proofs_total", Help: "Downloads with which a registry had to prove that it holds what is cached already.",
	})
	c.fallbacks = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fallbacks_total", Help: "Pulls that a registry's fallback answered, because it was down or had had too many requests.",
	})
	c.ctx, c.cancel = context.WithCancel(context.Background())
	fills := cfg.Fill
	fills.Store, fills.Log, fills.Verified = cfg.Store, cfg.Log, c.delivered
	if cfg.Connections != nil {
		fills.ConnectionsTo = func(src fill.Source) int { return cfg.Connections(src.(*source).grant.Registry) }
	}
	c.proofs = newProofs(fills)
	if cfg.Freshness != nil && len(cfg.Freshness.Pins()) > 0 {
		c.repin()
	}
	if fills.Registerer = cfg.Registerer; cfg.Registerer != nil {
		cfg.Registerer.MustRegister(c.proved, c.fallbacks)
	}
	c.fills = fill.New(fills)
	return c
}

// Close ends the fills in progress, and waits for them and for what is being committed.
func (c *Cache) Close() {
	c.cancel()
	c.background.Wait()
	c.fills.Close()
	c.proofs.close()
	c.commits.Wait()
}

// Fills is the number of downloads in progress.
func (c *Cache) Fills() int { return c.fills.InProgress() }

// Pushed drops what a push or a deletion of the manifest at p has made old: what was known of its tag or digest, and the
// answers about tags that are on their way.
func (c *Cache) Pushed(reg oci.Registry, p oci.Path) {
	if p.Tag != "" {
		c.cfg.Metadata.ForgetTag(reg, p.Repository, p.Tag)
		return
	}
	c.cfg.Metadata.ForgetDigest(reg, p.Repository, p.Digest)
}

// Doubt has what a push or a deletion may have made old asked for again at the next pull. While upstream is in trouble
// it is served all the same: a push that fails takes nothing away.
func (c *Cache) Doubt(reg oci.Registry, p oci.Path) {
	c.cfg.Metadata.Doubt(reg, p.Repository, p.Tag)
}

// delivered records that the bytes of a digest came from a source and were the digest's.
func (c *Cache) delivered(d oci.Digest, src fill.Source) {
	c.cfg.Access.Delivered(src.(*source).grant, d)
}

// flightTimeout bounds what is asked on behalf of several callers at once; the client's own time-outs are shorter.
const flightTimeout = 2 * time.Minute

// share does something once for all who want the same at the same time, and reports whether the caller's own do did it.
// One that leaves does not end it. Equal keys mean the same.
func share[V any](ctx context.Context, c *Cache, key string, do func(context.Context) (V, error)) (v V, own bool, err error) {
	began := false
	result := c.flights.DoChan(key, func() (v any, err error) {
		began = true // read after the result has been received, if at all
		defer func() {
			if p := recover(); p != nil { // singleflight would end the process
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				c.cfg.Log.Error("panic in a question to a registry", "err", err)
			}
		}()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flightTimeout)
		defer cancel()
		return do(ctx)
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return v, began, r.Err
		}
		return r.Val.(V), began, nil
	case <-ctx.Done():
		return v, false, context.Cause(ctx)
	}
}
