package metadata

import (
	"strings"

	"container-registry-proxy/internal/oci"
)

// Link says how sure we are that a repository holds a digest.
type Link byte

// A link is claimed when the registry only said so, proven when it delivered the bytes.
const (
	Unlinked Link = iota
	Claimed
	Proven
)

func (l Link) encode() []byte { return []byte{byte(l)} }

func decodeLink(b []byte) (Link, bool) {
	if len(b) != 1 || b[0] > byte(Proven) {
		return Unlinked, false
	}
	return Link(b[0]), true
}

// place is a repository of a registry.
type place struct {
	registry   oci.Registry
	repository string
}

// String is the key in the database.
func (p place) String() string { return join(string(p.registry), p.repository) }

func (p place) encode() []byte { return []byte(p.String()) }

func decodePlace(b []byte) (place, bool) {
	registry, repository, ok := strings.Cut(string(b), "\x00")
	return place{oci.Registry(registry), repository}, ok
}

// linkKey is what a link is kept under. One without a repository says that the registry has delivered the digest from
// some repository.
type linkKey struct {
	place
	digest oci.Digest
}

// String is the key in the database.
func (k linkKey) String() string { return join(string(k.registry), k.repository, string(k.digest)) }

// Link returns how a repository and a digest are linked.
func (m *Metadata) Link(reg oci.Registry, repository string, d oci.Digest) Link {
	link, _ := m.links.get(linkKey{place{reg, repository}, d})
	return link
}

// PutClaim records that the registry says that the repository holds the digest. A proven link is not weakened.
func (m *Metadata) PutClaim(reg oci.Registry, repository string, d oci.Digest) {
	m.links.update(linkKey{place{reg, repository}, d}, func(old Link, _ bool) (Link, bool) { return Claimed, old < Claimed })
}

// PutProof records that the registry has delivered the bytes of the digest from the repository. Free says that every
// client of the proxy may pull from that repository.
func (m *Metadata) PutProof(reg oci.Registry, repository string, d oci.Digest, free bool) {
	set(m.links, linkKey{place{reg, repository}, d}, Proven)
	set(m.links, linkKey{place{reg, ""}, d}, Proven)
	if free {
		set(m.free, d, place{reg, repository})
	}
}

// DeliveredBy reports whether the registry has delivered the bytes of the digest, from whichever repository.
func (m *Metadata) DeliveredBy(reg oci.Registry, d oci.Digest) bool {
	return m.Link(reg, "", d) == Proven
}

// Free returns the repository that has last delivered the digest while every client could pull from it, if any has.
func (m *Metadata) Free(d oci.Digest) (reg oci.Registry, repository string, ok bool) {
	p, ok := m.free.get(d)
	return p.registry, p.repository, ok
}
