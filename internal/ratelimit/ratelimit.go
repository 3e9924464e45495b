// Package ratelimit keeps the proxy within what registries allow. It reads what they say is left, and leaves them alone
// after a 429: for as long as they ask, or for a minute that doubles up to a quarter of an hour, with one request at the
// end of each step to find out. What is left alone is (registry, account, kind of request), so that a limit on manifests
// does not stop the layers of a pull that has begun; a second kind's 429 meanwhile has the whole registry left alone.
//
// Its invariant: while a cool-down lasts no request of that kind leaves for the registry, but for the one that probes.
// It sends nothing and waits for nothing: [Watch.Enter] is asked before a request and told how it ended.
package ratelimit

import (
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/oci"
)

// Kind is what a registry counts apart.
type Kind string

// The kinds. Head is of a manifest; a HEAD of a blob is Blob, as pulls of layers depend on it.
const (
	Manifest Kind = "manifest"
	Head     Kind = "head"
	Blob     Kind = "blob"
	Token    Kind = "token"
	Other    Kind = "other"

	// whole is the registry as a whole.
	whole Kind = "all"
)

// Purpose says how much a request matters.
type Purpose int

// The purposes, those that matter most first.
const (
	Client       Purpose = iota // a client waits, and nothing else will do
	Revalidation                // a client waits, and a stale answer will do
	Background                  // nobody waits
)

// Account is as whom a registry is asked. The zero value is nobody in particular.
type Account struct {
	// Class is "central" or "own"; empty is anonymous.
	Class string
	// Name tells accounts of a class apart. It reveals nothing and, but for own ones, is the same after a restart.
	Name string
}

// label is the class as metrics have it.
func (a Account) label() string {
	if a.Class == "" {
		return "anonymous"
	}
	return a.Class
}

// DB keeps cool-downs over a restart.
type DB interface {
	Put(bucket, key string, value []byte)
	Delete(bucket, key string)
	Scan(bucket, prefix string, visit func(key string, value []byte) bool)
}

// DefaultReserve is the share of a limit that is left to clients.
const DefaultReserve = 0.2

// scarce is the share of a limit below which nothing is revalidated that may be served stale.
const scarce = 0.05

// Config has what Watch needs. All of it may be left out.
type Config struct {
	// Reserve is the share of a limit, 0 to 1, below which background requests stop. Below a twentieth, or below Reserve
	// if that is less, revalidations stop too. Zero stops neither.
	Reserve float64
	// DB keeps cool-downs; nil means that a restart ends them.
	DB DB
	// Registries bounds the registry label of metrics: the registry itself, or "other". Nil means always "other".
	Registries func(oci.Registry) string
	Log        *slog.Logger
	// Registerer receives the metrics; nil means none are kept.
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// Watch knows which registries are left alone, and what is left of their limits. It is safe for concurrent use.
type Watch struct {
	cfg Config

	mu       sync.Mutex // guards the fields that follow
	cooling  map[key]*cooldown
	readings map[holder]Reading
}

// key is what is left alone.
type key struct {
	registry oci.Registry
	account  Account // zero where kind is whole
	kind     Kind
}

// maxWatched bounds the cool-downs and the readings that are kept, each; own accounts come and go.
const maxWatched = 4096

// New returns a watch with the cool-downs that the database remembers.
func New(cfg Config) *Watch {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Registries == nil {
		cfg.Registries = func(oci.Registry) string { return "other" }
	}
	w := &Watch{cfg: cfg, cooling: map[key]*cooldown{}, readings: map[holder]Reading{}}
	w.recall()
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(collector{w})
	}
	return w
}

// ErrReserved says that what is left of a registry's limit is left to clients.
var ErrReserved = errors.New("what is left of the registry's rate limit is kept for clients")

// Enter asks whether a request may be sent. The error is a [*CoolingError], or [ErrReserved]. Without one the turn must
// be ended with [Turn.Done].
func (w *Watch) Enter(reg oci.Registry, account Account, kind Kind, purpose Purpose) (*Turn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.cfg.Now()
	t := &Turn{watch: w, key: key{reg, account, kind}, began: now}
	for _, k := range t.keys() {
		c := w.cooling[k]
		if c == nil {
			continue
		}
		if left := c.left(now); left > 0 {
			return nil, &CoolingError{Registry: reg, Answer: c.Answer, Left: left}
		}
	}
	if w.reserved(holder{reg, account}, purpose, now) {
		return nil, ErrReserved
	}
	for _, k := range t.keys() {
		if c := w.cooling[k]; c != nil {
			c.probing = now
			t.probes = append(t.probes, k)
		}
	}
	return t, nil
}

// Turn is the right to send one request.
type Turn struct {
	watch  *Watch
	key    key
	began  time.Time
	probes []key // cool-downs of which it finds out whether they are over
}

// keys are what keeps the request from being sent.
func (t *Turn) keys() []key {
	if t.key.kind == Token { // the token service is another host
		return []key{t.key}
	}
	return []key{{registry: t.key.registry, kind: whole}, t.key}
}

// Done says how the request ended: with an answer, or without one, which is a status of 0. Header is the answer's.
func (t *Turn) Done(a Answer) {
	t.watch.mu.Lock()
	defer t.watch.mu.Unlock()
	switch {
	case a.Status == http.StatusTooManyRequests:
		t.watch.limited(t, a)
	case a.Status == 0 || a.Status >= 500: // says nothing of limits
		for _, k := range t.probes {
			if c := t.watch.cooling[k]; c != nil {
				c.probing = time.Time{}
			}
		}
	default:
		for _, k := range t.probes {
			t.watch.forget(k)
		}
	}
}
