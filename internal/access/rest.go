package access

import (
	"context"
	"fmt"
	"sync"
	"time"

	"container-registry-proxy/internal/oci"
)

// restAfterHang is how long a registry that hung is not asked what its last answer will do for: each such question
// would make a client wait.
const restAfterHang = 30 * time.Second

// ErrHangs is why a caller stops waiting for a registry whose last answer will do. It is a time-out.
var ErrHangs = fmt.Errorf("the registry hangs: %w", context.DeadlineExceeded)

// maxRests bounds the registries that are left alone at one time; more only means that some are asked.
const maxRests = 1024

// rests are the registries that are left alone for a while. The zero value has none.
type rests struct {
	mu    sync.Mutex // guards until
	until map[oci.Registry]time.Time
}

// Hung records that a registry was waited for in vain. One wait is enough: it counts as unreachable for a while, and
// nobody waits for it again where its last answer will do.
func (a *Access) Hung(reg oci.Registry) {
	a.Rest(reg, restAfterHang)
	a.Saw(reg, false)
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
