package access

import (
	"sync"
	"time"

	"container-registry-proxy/internal/oci"
)

// RestAfterHang is how long a registry that hung is not asked what its last answer will do for: each such question
// would make a client wait.
const RestAfterHang = 30 * time.Second

// maxRests bounds the registries that are left alone at one time; more only means that some are asked.
const maxRests = 1024

// rests are the registries that are left alone for a while. The zero value has none.
type rests struct {
	mu    sync.Mutex // guards until
	until map[oci.Registry]time.Time
}

// Rest has a registry left alone for a while, wherever its last answer will do.
func (a *Access) Rest(reg oci.Registry, period time.Duration) {
	a.rests.mu.Lock()
	defer a.rests.mu.Unlock()
	if a.rests.until == nil || len(a.rests.until) >= maxRests {
		a.rests.until = map[oci.Registry]time.Time{}
	}
	a.rests.until[reg] = a.cfg.Now().Add(period)
}

// Resting reports whether a registry is to be left alone.
func (a *Access) Resting(reg oci.Registry) bool {
	a.rests.mu.Lock()
	defer a.rests.mu.Unlock()
	until, ok := a.rests.until[reg]
	if !ok {
		return false
	}
	if left := until.Sub(a.cfg.Now()); left > 0 && left <= time.Hour { // no longer, whatever the clock does
		return true
	}
	delete(a.rests.until, reg)
	return false
}
