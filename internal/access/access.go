// Package access is the trust model: it turns a caller and what the caller wants into a [Grant], a value that the layers
// above pass on instead of deciding again. Its invariant: cached content is given out only under a grant whose
// repository the caller may pull and which that repository has been shown to hold; to know a digest is not permission.
//
// Content is open (the registry shows it to nobody in particular), central (reachable with the operator's credentials,
// which is what those are for) or a client's own. Open and central content is kept and shared. Own content is neither
// kept nor shared: it is streamed to the caller whose credentials fetched it.
package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/sync/singleflight"

	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

const (
	// openFor is how long a registry's answer to nobody in particular is believed without asking again.
	openFor = time.Hour
	// missingFor is how long a repository counts as not open because what was asked for in it is not there. A registry
	// that hides what is private says so for all of it, one where a tag is missing only for that: a compromise.
	missingFor = 5 * time.Minute
	// probeTimeout bounds one question to a registry that no single caller waits for alone.
	probeTimeout = 30 * time.Second
)

// Class says to whom content belongs.
type Class int

// The classes of the trust model.
const (
	Open Class = iota
	Central
	Own
)

func (c Class) String() string { return [...]string{"open", "central", "own"}[c] }

// Caller is who asks, as far as the request says.
type Caller struct {
	// Authorization is the request's header, empty where it has none.
	Authorization secret.String
}

// Grant says that a caller may pull from a repository, and as whom the registry is asked on its behalf.
type Grant struct {
	Registry   oci.Registry
	Repository string
	Class      Class
	As         auth.Identity

	// assumed marks an open grant that no answer of the registry backs yet: enough to ask the registry as nobody in
	// particular, not enough to be given what is cached.
	assumed bool
}

// Refusal is what a caller is told of a registry's answer that is not what was asked for: the registry's own words,
// which are an [*upstream.Refusal]. Two are no client's business: a challenge to the operator's credentials, which no
// client can answer, and a status that is no refusal.
func (g Grant) Refusal(resp *http.Response) error {
	refusal := upstream.NewRefusal(resp)
	switch {
	case refusal.Status == http.StatusUnauthorized && g.Class == Central:
		return &oci.Error{Code: oci.CodeDenied, Message: fmt.Sprintf("registry %s refuses the credentials that this proxy has for it (AUTH_REGISTRIES)", g.Registry)}
	case refusal.Status < 400:
		return &upstream.UnreachableError{Registry: g.Registry, Err: fmt.Errorf("answered %d", refusal.Status)}
	}
	return refusal
}

// Registries is the client towards registries.
type Registries interface {
	Do(ctx context.Context, req upstream.Request) (*http.Response, error)
}

// Config has what Access needs. Log and Now may be nil.
type Config struct {
	Registries Registries
	Metadata   *metadata.Metadata
	// HasCentral reports whether the operator configured credentials for a repository of the registry.
	HasCentral func(reg oci.Registry, repository string) bool
	// Keeps reports whether the operator wants what was open in a repository to stay so when its registry says that it is
	// not there any more. Nil means never.
	Keeps func(reg oci.Registry, repository string) bool
	// GiveUp is how long a registry that hangs is waited for where its last answer will do; 0 means 3 s.
	GiveUp time.Duration
	Log    *slog.Logger
	Now    func() time.Time
}

// Access decides who may pull what. It is safe for concurrent use.
type Access struct {
	cfg       Config
	questions singleflight.Group
	rests     rests
}

// New returns the trust model over cfg.
func New(cfg Config) *Access {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.GiveUp == 0 {
		cfg.GiveUp = 3 * time.Second
	}
	return &Access{cfg: cfg}
}

// Grant classifies a caller's wish to pull from a repository; p is what it asks for there, and serves as the question
// to the registry where the answer depends on it. The result may be [Own], which is no permission to anything cached.
func (a *Access) Grant(ctx context.Context, caller Caller, reg oci.Registry, p oci.Path) Grant {
	g := Grant{Registry: reg, Repository: p.Repository}
	if a.cfg.HasCentral(reg, p.Repository) {
		g.Class, g.As = Central, auth.Central
		return g
	}
	last, known := a.cfg.Metadata.Open(reg, p.Repository)
	recent := known && a.recent(last)
	switch {
	case recent && (last.Open || a.kept(g, last)):
		return g
	case caller.Authorization.Empty():
		g.assumed = true
		return g
	case !recent && a.probe(ctx, g, p) == nil:
		return g
	}
	g.Class, g.As = Own, auth.Own(caller.Authorization)
	return g
}

// Confirm backs a grant before cached content is given out under it. The error is the registry's [*upstream.Refusal],
// or that it cannot be reached and nothing is known.
func (a *Access) Confirm(ctx context.Context, g Grant, p oci.Path) error {
	if !g.assumed {
		return nil
	}
	if last, known := a.cfg.Metadata.Open(g.Registry, g.Repository); known && (last.Open || a.kept(g, last)) && a.recent(last) {
		return nil
	}
	return a.probe(ctx, g, p)
}

// ErrUnproven says that a repository claims to hold a digest of which that is not enough: its registry has to deliver
// the bytes once before it is believed.
var ErrUnproven = errors.New("the registry has not delivered the digest yet")

// Holds returns nil if what is cached of p's digest may be given out as the repository's. The registry must say that
// the repository holds it; and it must have delivered the bytes itself, from this repository or another, unless the
// digest is free. The error is [ErrUnproven], the registry's refusal, or that it cannot be reached.
func (a *Access) Holds(ctx context.Context, g Grant, p oci.Path) error {
	if err := a.Claims(ctx, g, p); err != nil {
		return err
	}
	m := a.cfg.Metadata
	if m.Link(g.Registry, g.Repository, p.Digest) == metadata.Proven || m.DeliveredBy(g.Registry, p.Digest) || a.free(p.Digest) {
		return nil
	}
	return ErrUnproven
}

// Claims returns nil if the registry is known to say, or now says, that the repository holds the digest of p. That is
// enough for bytes that are only now being delivered to all clients alike.
func (a *Access) Claims(ctx context.Context, g Grant, p oci.Path) error {
	if a.cfg.Metadata.Link(g.Registry, g.Repository, p.Digest) != metadata.Unlinked {
		return nil
	}
	err := a.share(ctx, fmt.Sprintf("claim %x %q %q", g.As.Key(), g.Registry, p.String()), func(ctx context.Context) error {
		return a.ask(ctx, g, p.Repository, p.String(), http.StatusForbidden)
	})
	if err == nil {
		a.Answered(g, p)
	}
	return err
}

// free reports whether some registry has delivered the digest from a repository that every client may pull from.
func (a *Access) free(d oci.Digest) bool {
	reg, repository, ok := a.cfg.Metadata.Free(d)
	if !ok {
		return false
	}
	if a.cfg.HasCentral(reg, repository) {
		return true
	}
	last, known := a.cfg.Metadata.Open(reg, repository)
	return known && (last.Open || a.kept(Grant{Registry: reg, Repository: repository}, last))
}

// Answered records that the registry has answered a request for p under the grant with success: what is assumed open is
// open, and the repository claims the digest.
func (a *Access) Answered(g Grant, p oci.Path) {
	if g.Class == Own {
		return
	}
	if g.Class == Open {
		a.rememberOpen(g, p.String())
	}
	if p.Digest != "" {
		a.cfg.Metadata.PutClaim(g.Registry, g.Repository, p.Digest)
	}
}

// Delivered records that the registry has delivered the bytes of the digest from the repository of the grant.
func (a *Access) Delivered(g Grant, d oci.Digest) {
	if g.Class != Own {
		a.cfg.Metadata.PutProof(g.Registry, g.Repository, d, true)
	}
}

func (a *Access) recent(last metadata.OpenAnswer) bool {
	age := a.cfg.Now().Sub(last.At)
	if last.Missing {
		return age >= 0 && age < missingFor
	}
	return age >= 0 && age < openFor
}
