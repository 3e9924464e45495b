package disk

import "container-registry-proxy/internal/oci"

// Holds reports whether a blob is there, or may be while the directory is being surveyed. It counts as no use of it.
func (s *Store) Holds(d oci.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index[d] != nil || s.adopting.Load()
}
