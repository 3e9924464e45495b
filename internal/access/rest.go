package access

import (
	"context"
	"fmt"
	"time"

	"container-registry-proxy/internal/oci"
)

// restAfterHang is how long a registry that hung is not asked what its last answer will do for: each such question
// would make a client wait.
const restAfterHang = 30 * time.Second

// maxRest bounds every rest, whatever a registry asks for.
const maxRest = time.Hour

// ErrHangs is why a caller stops waiting for a registry whose last answer will do. It is a time-out.
var ErrHangs = fmt.Errorf("the registry hangs: %w", context.DeadlineExceeded)

// Hung records that a registry was waited for in vain. One wait is enough: it counts as unreachable for a while, and
// nobody waits for it again where its last answer will do.
func (a *Access) Hung(reg oci.Registry) {
	a.Rest(reg, restAfterHang)
	a.Saw(reg, false)
}

// Rest has a registry left alone for a while, wherever its last answer will do.
func (a *Access) Rest(reg oci.Registry, period time.Duration) {
	a.resting.Add(reg, min(period, maxRest))
}

// Resting reports whether a registry is to be left alone.
func (a *Access) Resting(reg oci.Registry) bool { return a.resting.Has(reg) }
