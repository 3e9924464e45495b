package upstream

import (
	"fmt"

	"container-registry-proxy/internal/oci"
)

// UnreachableError says that a registry, what it redirects to, or its token service gave no answer: DNS, a refused
// connection, TLS, a time-out. Its text may be shown to clients: it names hosts, no paths and no query strings.
type UnreachableError struct {
	Registry oci.Registry
	// Err is what went wrong.
	Err error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("reach %s: %v", e.Registry, e.Err) }

func (e *UnreachableError) Unwrap() error { return e.Err }
