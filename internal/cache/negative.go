package cache

import (
	"sync"
	"time"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream"
)

const (
	// missingFor is how long a registry's word that there is no such tag counts: long enough for the retries of a crowd
	// of nodes, too short for anybody to notice after the image has been pushed.
	missingFor = 5 * time.Second
	// maxMissing bounds the answers that are remembered, and maxMissingBody each body.
	maxMissing     = 1024
	maxMissingBody = 4 << 10
)

// negatives remembers for a moment that a tag is not there, for each identity that was told so: another may see more. A
// push through the proxy ends all of it.
type negatives struct {
	now func() time.Time

	mu      sync.Mutex // guards answers
	answers map[negativeKey]negative
}

type negativeKey struct {
	registry        oci.Registry
	repository, tag string
	as              secret.Key
}

type negative struct {
	refusal *upstream.Refusal
	at      time.Time
	pushes  uint64
}

func newNegatives(now func() time.Time) *negatives {
	return &negatives{now: now, answers: map[negativeKey]negative{}}
}

func keyOfMissing(g access.Grant, p oci.Path) negativeKey {
	return negativeKey{g.Registry, p.Repository, p.Tag, g.As.Key()}
}

// get returns what was answered a moment ago, or nil. Pushes is how many there have been by now.
func (n *negatives) get(g access.Grant, p oci.Path, pushes uint64) *upstream.Refusal {
	n.mu.Lock()
	defer n.mu.Unlock()
	known, ok := n.answers[keyOfMissing(g, p)]
	if age := n.now().Sub(known.at); !ok || known.pushes != pushes || age < 0 || age >= missingFor {
		return nil
	}
	return known.refusal
}

// put remembers an answer to what was asked when there had been that many pushes.
func (n *negatives) put(g access.Grant, p oci.Path, pushes uint64, refusal *upstream.Refusal) {
	if len(refusal.Body) > maxMissingBody {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.answers) >= maxMissing {
		clear(n.answers)
	}
	n.answers[keyOfMissing(g, p)] = negative{refusal, n.now(), pushes}
}
