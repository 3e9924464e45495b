package freshness

import (
	"slices"

	"container-registry-proxy/internal/oci"
)

// Pins are the references that are pinned: what they mean is kept, whatever becomes of it upstream, and never evicted.
func (r *Rules) Pins() []oci.Reference { return r.pins }

// Pinned reports whether a tag is pinned.
func (r *Rules) Pinned(registry oci.Registry, repository, tag string) bool {
	return slices.Contains(r.pins, oci.Reference{Registry: registry, Repository: repository, Tag: tag})
}

// PinnedDigest reports whether a digest of a repository is pinned by name.
func (r *Rules) PinnedDigest(registry oci.Registry, repository string, d oci.Digest) bool {
	return slices.Contains(r.pins, oci.Reference{Registry: registry, Repository: repository, Digest: d})
}

// pinsIn reports whether anything of a repository is pinned.
func (r *Rules) pinsIn(registry oci.Registry, repository string) bool {
	return slices.ContainsFunc(r.pins, func(ref oci.Reference) bool { return ref.Registry == registry && ref.Repository == repository })
}
