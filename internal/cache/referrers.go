package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/maypok86/otter/v2"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

const (
	// referrersFor is how long a list of referrers is given out without asking: a signature is pushed right after its
	// image, and looked for soon after that.
	referrersFor = 15 * time.Second
	// referrersStaleFor is how long it may stand in for a registry that cannot answer.
	referrersStaleFor = 24 * time.Hour
	// maxReferrers bounds one list, as the distribution specification bounds a manifest, and referrersMemory all of them.
	maxReferrers    = 4 << 20
	referrersMemory = 16 << 20
	// maxQuery bounds the filters and the place in the list that a client may name.
	maxQuery = 512
)

// ErrOwn says that a list is a client's own, and none of the cache's business.
var ErrOwn = errors.New("what is a client's own is not kept")

// List is a registry's list of what refers to a manifest, or a page of it.
type List struct {
	// Header has its type, the filters that were applied and where the next page is. Not to be changed.
	Header  http.Header
	Body    []byte
	Outcome Outcome
}

// listKey is what a list is kept under. What one class of callers is shown is not shown to another.
func listKey(g access.Grant, d oci.Digest, query, accept string) string {
	return fmt.Sprintf("%s %q %q %q %q %q", g.Flight(), g.Registry, g.Repository, d, query, accept)
}

// keptList is a list, or the refusal in its place.
type keptList struct {
	list    *List
	refusal *upstream.Refusal // that there is none
	at      time.Time
	pushes  uint64
}

// newLists returns the memory of lists, bounded by their bytes.
func newLists() *otter.Cache[string, *keptList] {
	return otter.Must(&otter.Options[string, *keptList]{
		MaximumWeight: referrersMemory,
		Weigher: func(k string, l *keptList) uint32 {
			n := len(k) + 2*overhead
			if l.list != nil {
				n += len(l.list.Body)
			}
			return uint32(n)
		},
	})
}

// Referrers returns the list of what refers to the manifest of p's digest, as the registry pages and filters it for the
// query. It is kept for a short while and stands in for a registry in trouble. Errors are [ErrOwn], the registry's
// [*upstream.Refusal], or that it cannot be reached.
func (c *Cache) Referrers(ctx context.Context, p Pull, query string) (*List, error) {
	subject := oci.Path{Kind: oci.KindManifest, Repository: p.Path.Repository, Digest: p.Path.Digest}
	g := c.cfg.Access.Grant(ctx, p.Caller, p.Registry, subject)
	if g.Class == access.Own || len(query) > maxQuery {
		return nil, ErrOwn
	}
	k := listKey(g, subject.Digest, query, normalAccept(p.Accept))
	kept, known := c.lists.GetIfPresent(k)
	if !known {
		kept = &keptList{}
	}
	pushes := c.cfg.Metadata.Pushes()
	age := c.cfg.Now().Sub(kept.at)
	known = known && kept.pushes == pushes && age >= 0 && age < referrersStaleFor
	switch {
	case known && !p.NoCache && kept.refusal != nil && age < missingFor:
		return nil, kept.refusal
	case known && !p.NoCache && kept.list != nil && age < referrersFor:
		return c.listOf(ctx, g, subject, kept.list, Hit)
	}
	list, _, err := share(ctx, c, fmt.Sprintf("referrers %d %s", pushes, k), func(ctx context.Context) (*List, error) {
		return c.fetchList(ctx, g, p, query, known && kept.list != nil)
	})
	switch refusal, refused := errors.AsType[*upstream.Refusal](err); {
	case err == nil:
		c.lists.Set(k, &keptList{list: list, at: c.cfg.Now(), pushes: pushes})
	case refused && refusal.Status == http.StatusNotFound && len(refusal.Body) <= maxMissingBody:
		c.lists.Set(k, &keptList{refusal: refusal, at: c.cfg.Now(), pushes: pushes})
	case known && kept.list != nil && passing(err):
		return c.listOf(ctx, g, subject, kept.list, StaleHit)
	case errors.Is(err, errNoManifest):
		err = ErrOwn // whatever it is, it is for this client alone
	}
	return list, err
}

// listOf gives out a list that is kept, under a grant that is confirmed.
func (c *Cache) listOf(ctx context.Context, g access.Grant, subject oci.Path, list *List, outcome Outcome) (*List, error) {
	if err := c.cfg.Access.Confirm(ctx, g, subject); err != nil {
		return nil, err
	}
	return &List{Header: list.Header, Body: list.Body, Outcome: outcome}, nil
}

// fetchList asks the registry. Where a stale list is at hand it is given up soon.
func (c *Cache) fetchList(ctx context.Context, g access.Grant, p Pull, query string, stale bool) (*List, error) {
	req := upstream.Request{
		Method: http.MethodGet, Registry: g.Registry, Path: p.Path.String(), Scope: auth.PullScope(g.Repository), As: g.As,
		Header: http.Header{"Accept": slices.Clone(p.Accept)},
	}
	if query != "" {
		req.Path += "?" + query
	}
	if stale {
		if c.cfg.Access.Resting(g.Registry) {
			return nil, errResting
		}
		within, cancel := context.WithTimeoutCause(ctx, c.cfg.GiveUp, access.ErrHangs)
		defer cancel()
		ctx, req.Purpose = within, ratelimit.Revalidation
	}
	resp, err := c.cfg.Registries.Do(ctx, req)
	if err != nil {
		c.rest(g.Registry, err)
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, g.Refusal(resp)
	}
	defer resp.Body.Close()
	if err := decode(resp); err != nil {
		return nil, unusable(g, resp, err)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReferrers+1))
	switch {
	case err != nil:
		return nil, unusable(g, resp, err)
	case len(body) > maxReferrers:
		return nil, ErrOwn // passes through
	}
	var doc document
	if json.Unmarshal(body, &doc) != nil || doc.Manifests == nil {
		return nil, errNoManifest
	}
	header := http.Header{}
	for _, name := range []string{"Content-Type", "Link", "Oci-Filters-Applied", "Warning"} {
		if values := resp.Header.Values(name); len(values) > 0 {
			header[name] = values
		}
	}
	return &List{Header: header, Body: body, Outcome: Miss}, nil
}
