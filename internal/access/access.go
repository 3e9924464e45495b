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

// openFor is how long a registry's answer to nobody in particular is believed without asking again.
const openFor = time.Hour

// probeTimeout bounds one question to a registry that no single caller waits for alone.
const probeTimeout = 30 * time.Second

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

// Registries is the client towards registries.
type Registries interface {
	Do(ctx context.Context, req upstream.Request) (*http.Response, error)
}

// Config has what Access needs. Log and Now may be nil.
type Config struct {
	Registries Registries
	Metadata   *metadata.Metadata
	// HasCentral reports whether the operator configured credentials for the registry.
	HasCentral func(oci.Registry) bool
	Log        *slog.Logger
	Now        func() time.Time
}

// Access decides who may pull what. It is safe for concurrent use.
type Access struct {
	cfg    Config
	probes singleflight.Group
}

// New returns the trust model over cfg.
func New(cfg Config) *Access {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Access{cfg: cfg}
}

// Grant classifies a caller's wish to pull from a repository; p is what it asks for there, and serves as the question
// to the registry where the answer depends on it. The result may be [Own], which is no permission to anything cached.
func (a *Access) Grant(ctx context.Context, caller Caller, reg oci.Registry, p oci.Path) Grant {
	g := Grant{Registry: reg, Repository: p.Repository}
	if a.cfg.HasCentral(reg) {
		g.Class, g.As = Central, auth.Central
		return g
	}
	last, known := a.cfg.Metadata.Open(reg, p.Repository)
	recent := known && a.recent(last)
	switch {
	case recent && last.Open:
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
	last, known := a.cfg.Metadata.Open(g.Registry, g.Repository)
	if !g.assumed || (known && last.Open && a.recent(last)) {
		return nil
	}
	return a.probe(ctx, g, p)
}

// Holds returns nil if the repository of the grant is known, or now says, to hold the digest of p.
func (a *Access) Holds(ctx context.Context, g Grant, p oci.Path) error {
	if a.cfg.Metadata.Link(g.Registry, g.Repository, p.Digest) != metadata.Unlinked {
		return nil
	}
	if err := a.ask(ctx, g.As, g.Registry, p); err != nil {
		return err
	}
	a.cfg.Metadata.PutLink(g.Registry, g.Repository, p.Digest, metadata.Claimed)
	return nil
}

// Answered records that the registry has answered a request under the grant with success: what is assumed open is open.
func (a *Access) Answered(g Grant) {
	if g.Class == Open && g.As == auth.Anonymous {
		a.remember(g, true)
	}
}

// Delivered records that the registry has delivered the bytes of the digest from the repository of the grant.
func (a *Access) Delivered(g Grant, d oci.Digest) {
	if g.Class != Own {
		a.cfg.Metadata.PutLink(g.Registry, g.Repository, d, metadata.Proven)
	}
}

// probe asks the registry, as nobody in particular, for what p names, and returns nil if the repository is open. While
// the registry cannot say, its last answer stands.
func (a *Access) probe(ctx context.Context, g Grant, p oci.Path) error {
	err := a.ask(ctx, auth.Anonymous, g.Registry, p)
	var refusal *upstream.Refusal
	switch {
	case err == nil:
		a.remember(g, true)
		return nil
	case errors.As(err, &refusal) && !refusal.Temporary():
		a.remember(g, false)
		return err
	}
	if last, known := a.cfg.Metadata.Open(g.Registry, g.Repository); known && last.Open {
		return nil
	}
	return err
}

// ask sends one HEAD for what p names and returns nil for a 2xx or a redirect, which is not followed. A registry that
// does not answer a HEAD is asked with a GET, whose body is not read. Concurrent askers of the same share the answer.
func (a *Access) ask(ctx context.Context, as auth.Identity, reg oci.Registry, p oci.Path) error {
	path := p.String()
	result := a.probes.DoChan(fmt.Sprintf("%x %q %q", as.Key(), reg, path), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
		defer cancel()
		err := a.request(ctx, http.MethodHead, as, reg, p.Repository, path)
		var refusal *upstream.Refusal
		if errors.As(err, &refusal) && refusal.Status == http.StatusMethodNotAllowed {
			err = a.request(ctx, http.MethodGet, as, reg, p.Repository, path)
		}
		return nil, err
	})
	select {
	case r := <-result:
		return r.Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *Access) request(ctx context.Context, method string, as auth.Identity, reg oci.Registry, repo, path string) error {
	resp, err := a.cfg.Registries.Do(ctx, upstream.Request{
		Method: method, Registry: reg, Path: path, Scope: auth.PullScope(repo), As: as,
		Header:   http.Header{"Accept": {"*/*"}},
		NoFollow: true,
	})
	if err != nil {
		return err
	}
	if resp.StatusCode >= 400 || resp.StatusCode < 200 {
		return upstream.NewRefusal(resp)
	}
	return resp.Body.Close()
}

func (a *Access) recent(last metadata.OpenAnswer) bool {
	age := a.cfg.Now().Sub(last.At)
	return age >= 0 && age < openFor
}

func (a *Access) remember(g Grant, open bool) {
	if last, known := a.cfg.Metadata.Open(g.Registry, g.Repository); known && last.Open == open && a.recent(last) {
		return
	}
	a.cfg.Metadata.PutOpen(g.Registry, g.Repository, metadata.OpenAnswer{Open: open, At: a.cfg.Now()})
}
