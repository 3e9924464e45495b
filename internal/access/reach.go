package access

import (
	"context"
	"errors"
	"net/http"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream"
)

const (
	// unreachableFor is how long a registry counts as unreachable after it was last seen to be.
	unreachableFor = 30 * time.Second
	// maxHosts bounds those that are remembered, and those at rest; more only means that some are asked.
	maxHosts = 1024
	// maxChallenge bounds what is remembered of a challenge: headers of more bytes are none that a client needs.
	maxChallenge = 4 << 10
)

// Saw records whether a registry or a token service has just answered.
func (a *Access) Saw(host oci.Registry, answered bool) {
	if answered {
		a.down.Remove(host)
	} else {
		a.down.Add(host, unreachableFor)
	}
}

// Unreachable reports whether the registry, or the token service that it names, could not be reached a moment ago.
func (a *Access) Unreachable(reg oci.Registry) bool {
	if a.down.Has(reg) {
		return true
	}
	if a.cfg.Realms == nil || a.down.Empty() {
		return false
	}
	for _, host := range a.cfg.Realms(reg) {
		if a.down.Has(host) {
			return true
		}
	}
	return false
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
