// Package access is the trust model: it turns a caller and what the caller wants into a [Grant], a value that the layers
// above pass on instead of deciding again. Its invariant: cached content is given out only under a grant whose
// repository the caller may pull and which that repository has been shown to hold; to know a digest is not permission.
//
// Content is open (the registry shows it to nobody in particular), central (reachable with the operator's credentials,
// which is what those are for) or a client's own. All of it is kept once. Open and central content is everybody's; own
// content is for those alone whose own login the registry has taken for that repository a short while ago.
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
	"container-registry-proxy/internal/until"
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
	// spurned marks one that is open only because the operator's credentials are refused at present.
	spurned bool
	login   login // of the caller, where As is its own
}

// Flight tells apart the grants under which a question to the registry has different answers: open and central ones have
// the same for all callers.
func (g Grant) Flight() string {
	if g.Class == Own {
		return fmt.Sprintf("own %x", g.As.Key())
	}
	return g.Class.String()
}

// Refusal is what a caller is told of a registry's answer that is not what was asked for: the registry's own words,
// which are an [*upstream.Refusal]. Two are no client's business: that the operator's credentials are refused, which no
// client can change, and a status that is no refusal.
func (g Grant) Refusal(resp *http.Response) error {
	refusal := upstream.NewRefusal(resp)
	switch {
	case refusal.Status == http.StatusUnauthorized && g.Class == Central, g.spurned && denied(refusal):
		return &SpurnedError{Registry: g.Registry, Status: refusal.Status}
	case refusal.Status < 400:
		return &upstream.UnreachableError{Registry: g.Registry, Err: fmt.Errorf("answered %d", refusal.Status)}
	}
	return refusal
}

// SpurnedError says that a registry refuses the operator's credentials, and shows what was asked for to nobody else.
type SpurnedError struct {
	Registry oci.Registry
	Status   int // what it answered
}

func (e *SpurnedError) Error() string {
	return fmt.Sprintf("registry %s refuses the credentials that this proxy has for it (AUTH_REGISTRIES, AUTH_CONFIG_FILE or credentials)", e.Registry)
}

// As gives the error the words that a client gets.
func (e *SpurnedError) As(target any) bool {
	wire, ok := target.(**oci.Error)
	if ok {
		*wire = &oci.Error{Code: oci.CodeDenied, Message: e.Error()}
	}
	return ok
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
	// Refused reports whether those are of no use at present; nil means that they are.
	Refused func(ctx context.Context, reg oci.Registry, repository string) bool
	// OwnFirst has a caller's own login go before the operator's credentials.
	OwnFirst func() bool
	// Everyone reports whether every client of the proxy may pull from a repository, as far as its operator's rules go;
	// nil means that there are no rules.
	Everyone func(reg oci.Registry, repository string) bool
	// Realms are the token services that a registry has named, as far as they are paired with it; nil means none are known.
	Realms func(reg oci.Registry) []oci.Registry
	// Hasher makes the fingerprints under which accepted logins are remembered; nil means one of this process alone.
	Hasher *secret.Hasher
	// GiveUp is how long a registry that hangs is waited for where its last answer will do; 0 means 3 s.
	GiveUp time.Duration
	Log    *slog.Logger
	Now    func() time.Time
}

// Access decides who may pull what. It is safe for concurrent use.
type Access struct {
	cfg       Config
	questions singleflight.Group
	resting   *until.Set[oci.Registry] // are left alone
	down      *until.Set[oci.Registry] // and token services, could not be reached when they were last asked
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
	if cfg.Hasher == nil {
		cfg.Hasher = secret.NewHasher()
	}
	if cfg.Refused == nil {
		cfg.Refused = func(context.Context, oci.Registry, string) bool { return false }
	}
	if cfg.OwnFirst == nil {
		cfg.OwnFirst = func() bool { return false }
	}
	if cfg.Everyone == nil {
		cfg.Everyone = func(oci.Registry, string) bool { return true }
	}
	a := &Access{cfg: cfg, resting: until.New[oci.Registry](cfg.Now, maxHosts), down: until.New[oci.Registry](cfg.Now, maxHosts)}
	a.cfg.Registries = a.Watch(cfg.Registries)
	return a
}

// Grant classifies a caller's wish to pull from a repository; p is what it asks for there, and serves as the question
// to the registry where the answer depends on it. The result is no permission to anything cached before it is
// confirmed.
func (a *Access) Grant(ctx context.Context, caller Caller, reg oci.Registry, p oci.Path) Grant {
	g := Grant{Registry: reg, Repository: p.Repository}
	if a.cfg.HasCentral(reg, p.Repository) && (caller.Authorization.Empty() || !a.cfg.OwnFirst()) {
		return a.central(ctx, g)
	}
	g.login, g.As = a.loginOf(caller), auth.Own(caller.Authorization)
	last, known := a.cfg.Metadata.Open(reg, p.Repository)
	recent := known && a.recent(last)
	switch {
	case recent && (last.Open || a.kept(g, last)):
		return g
	case caller.Authorization.Empty():
		g.assumed = true
		return g
	case !recent && a.isOpen(ctx, g, p):
		return g
	}
	g.Class = Own
	return g
}

// central is the grant of a repository for which there are credentials of the operator's. While the registry refuses
// them it is asked as nobody in particular.
func (a *Access) central(ctx context.Context, g Grant) Grant {
	if a.cfg.Refused(ctx, g.Registry, g.Repository) {
		last, known := a.cfg.Metadata.Open(g.Registry, g.Repository)
		g.assumed = !known || !last.Open || !a.recent(last)
		g.spurned = g.assumed
		return g
	}
	g.Class, g.As = Central, auth.Central
	return g
}

// Otherwise is the grant to try where the registry has refused what the caller brought along itself: the operator's
// credentials, if there are any.
func (a *Access) Otherwise(ctx context.Context, g Grant, err error) (Grant, bool) {
	refusal, ok := errors.AsType[*upstream.Refusal](err)
	if !ok || !denied(refusal) || !g.As.IsOwn() || !a.cfg.HasCentral(g.Registry, g.Repository) {
		return Grant{}, false
	}
	return a.central(ctx, Grant{Registry: g.Registry, Repository: g.Repository}), true
}

// denied reports whether a registry's answer may mean that who asks is not let in. Some hide what is private.
func denied(refusal *upstream.Refusal) bool {
	switch refusal.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return true
	}
	return false
}

// Confirm backs a grant before cached content is given out under it. The error is the registry's [*upstream.Refusal],
// or that it cannot be reached and nothing is known.
func (a *Access) Confirm(ctx context.Context, g Grant, p oci.Path) error {
	switch {
	case g.Class == Own:
		return a.confirmOwn(ctx, g, p)
	case g.Class == Central:
		return a.confirmCentral(ctx, g, p)
	case !g.assumed:
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
	if !a.Proven(g, p.Digest) {
		return ErrUnproven
	}
	return nil
}

// Proven reports whether that a repository claims to hold the digest is enough.
func (a *Access) Proven(g Grant, d oci.Digest) bool {
	return a.cfg.Metadata.Link(g.Registry, g.Repository, d) == metadata.Proven || a.cfg.Metadata.DeliveredBy(g.Registry, d) || a.free(d)
}

// Claims returns nil if the registry is known to say, or now says, that the repository holds the digest of p.
func (a *Access) Claims(ctx context.Context, g Grant, p oci.Path) error {
	if a.cfg.Metadata.Link(g.Registry, g.Repository, p.Digest) != metadata.Unlinked {
		return nil
	}
	if g.Class == Open {
		g.As = auth.Anonymous
	}
	err := a.share(ctx, fmt.Sprintf("claim %s %q %q", g.Flight(), g.Registry, p.String()), func(ctx context.Context) error {
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
	return ok && a.FreeAt(reg, repository)
}

// FreeAt reports whether every client may pull from a repository, as far as is known.
func (a *Access) FreeAt(reg oci.Registry, repository string) bool {
	if !a.cfg.Everyone(reg, repository) {
		return false
	}
	if a.cfg.HasCentral(reg, repository) {
		if last, known := a.cfg.Metadata.Reached(reg, repository); known && last.Open {
			return true
		}
	}
	last, known := a.cfg.Metadata.Open(reg, repository)
	return known && (last.Open || a.kept(Grant{Registry: reg, Repository: repository}, last))
}

// Free reports whether what is fetched under the grant is every client's.
func (a *Access) Free(g Grant) bool {
	return g.Class != Own && a.cfg.Everyone(g.Registry, g.Repository)
}

// Answered records that the registry has answered a request for p under the grant with success: what is assumed open is
// open, what was asked for with a login may be had with it, and the repository claims the digest.
func (a *Access) Answered(g Grant, p oci.Path) {
	switch {
	case g.Class == Own:
		a.accept(g)
	case g.Class == Central:
		a.rememberCentral(g, p.String())
	case !g.As.IsOwn(): // a login says nothing of what nobody in particular gets
		a.rememberOpen(g, p.String())
	}
	if p.Digest != "" {
		a.cfg.Metadata.PutClaim(g.Registry, g.Repository, p.Digest)
	}
}

// Delivered records that the registry has delivered the bytes of the digest from the repository of the grant.
func (a *Access) Delivered(g Grant, d oci.Digest) {
	a.cfg.Metadata.PutProof(g.Registry, g.Repository, d, a.Free(g))
}

func (a *Access) recent(last metadata.OpenAnswer) bool {
	age := a.cfg.Now().Sub(last.At)
	if last.Missing {
		return age >= 0 && age < missingFor
	}
	return age >= 0 && age < openFor
}
