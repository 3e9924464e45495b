package access

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream"
)

const (
	// unreachableFor is how long a registry counts as unreachable after it was last seen to be.
	unreachableFor = 30 * time.Second
	// maxUnreachable bounds those that are remembered; more only means that some are asked.
	maxUnreachable = 1024
	// maxChallenge bounds what is remembered of a challenge: headers of more bytes are none that a client needs.
	maxChallenge = 4 << 10
)

// reach is which registries and token services could not be reached when they were last asked. The zero value has none.
type reach struct {
	mu   sync.Mutex // guards down
	down map[oci.Registry]time.Time
}

// Saw records whether a registry or a token service has just answered.
func (a *Access) Saw(host oci.Registry, answered bool) {
	r := &a.reach
	r.mu.Lock()
	defer r.mu.Unlock()
	if answered {
		delete(r.down, host)
		return
	}
	if r.down == nil || len(r.down) >= maxUnreachable {
		r.down = map[oci.Registry]time.Time{}
	}
	r.down[host] = a.cfg.Now()
}

// Unreachable reports whether the registry, or the token service that it names, could not be reached a moment ago.
func (a *Access) Unreachable(reg oci.Registry) bool {
	if a.down(reg) {
		return true
	}
	if a.cfg.Realms == nil || !a.anyDown() {
		return false
	}
	for _, host := range a.cfg.Realms(reg) {
		if a.down(host) {
			return true
		}
	}
	return false
}

func (a *Access) anyDown() bool {
	a.reach.mu.Lock()
	defer a.reach.mu.Unlock()
	return len(a.reach.down) > 0
}

func (a *Access) down(host oci.Registry) bool {
	a.reach.mu.Lock()
	defer a.reach.mu.Unlock()
	at, ok := a.reach.down[host]
	age := a.cfg.Now().Sub(at)
	return ok && age >= 0 && age < unreachableFor
}

// Watch returns registries that are seen to be reachable or not as they are asked, and whose challenges are remembered
// for as long as they are not.
func (a *Access) Watch(registries Registries) Registries { return watched{registries, a} }

type watched struct {
	Registries
	access *Access
}

func (w watched) Do(ctx context.Context, req upstream.Request) (*http.Response, error) {
	resp, err := w.Registries.Do(ctx, req)
	var unreachable *upstream.UnreachableError
	switch {
	case err == nil:
		w.access.Saw(req.Registry, !Gateway(resp.StatusCode))
		w.access.Challenged(req.Registry, resp)
	case errors.As(err, &unreachable) && unreachable.Host == req.Registry.Authority(): // not where it redirects to
		w.access.Saw(req.Registry, false)
	}
	return resp, err
}

// Gateway reports whether a status says that what answered is not the registry itself.
func Gateway(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

// Challenged remembers the challenge of a registry's answer, if it has one.
func (a *Access) Challenged(reg oci.Registry, resp *http.Response) {
	if resp.StatusCode != http.StatusUnauthorized {
		return
	}
	var challenge []string
	size := 0
	for _, line := range resp.Header.Values("Www-Authenticate") {
		if size += len(line); size > maxChallenge {
			return
		}
		challenge = append(challenge, line)
	}
	if len(challenge) > 0 {
		a.cfg.Metadata.PutChallenge(reg, challenge)
	}
}

// Challenge is how the registry last challenged, if it has.
func (a *Access) Challenge(reg oci.Registry) []string { return a.cfg.Metadata.Challenge(reg) }
