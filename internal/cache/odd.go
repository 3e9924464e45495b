package cache

import (
	"sync"
	"time"

	"container-registry-proxy/internal/oci"
)

// oddFor is how long a registry that answers a HEAD oddly is asked with a GET at once.
const oddFor = 10 * time.Minute

// maxOdd bounds the registries that are remembered; to forget one costs it a HEAD.
const maxOdd = 1024

// oddRegistries remembers the registries of whose manifests a HEAD tells nothing.
type oddRegistries struct {
	now   func() time.Time
	mu    sync.Mutex // guards since
	since map[oci.Registry]time.Time
}

func newOddRegistries(now func() time.Time) *oddRegistries {
	return &oddRegistries{now: now, since: map[oci.Registry]time.Time{}}
}

func (o *oddRegistries) is(reg oci.Registry) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	at, ok := o.since[reg]
	age := o.now().Sub(at)
	return ok && age >= 0 && age < oddFor
}

func (o *oddRegistries) add(reg oci.Registry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if age := o.now().Sub(o.since[reg]); age >= 0 && age < oddFor {
		return
	}
	if len(o.since) >= maxOdd {
		clear(o.since)
	}
	o.since[reg] = o.now()
}
