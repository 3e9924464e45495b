// Package oci is the vocabulary of this program: registries, repositories, digests, descriptors, the paths of the
// distribution API and its wire errors. Its one invariant: a value it has parsed is canonical, so two spellings of
// one thing compare equal and nothing malformed travels further. It knows no HTTP beyond status codes, touches
// neither files nor sockets, and imports the standard library alone.
package oci

// Descriptor names content exactly (OCI image spec v1.1, "Content Descriptors").
type Descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    Digest `json:"digest"`
	Size      int64  `json:"size"`
}
