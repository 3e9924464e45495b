package oci

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Digest names bytes by their hash, as "algorithm:hex" (OCI image spec v1.1, "Digests"). A Digest made by
// [ParseDigest] or [FromBytes] is well formed and of an algorithm we can verify, so it is safe in a file name.
type Digest string

// FromBytes returns the sha256 digest of b, the algorithm every registry speaks.
func FromBytes(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// ParseDigest accepts sha256 and sha512 in lower-case hex of the right length. Everything else, other registered
// algorithms included, is an error matching [ErrDigestInvalid]: what we cannot verify we do not keep.
func ParseDigest(s string) (Digest, error) {
	algorithm, sum, ok := strings.Cut(s, ":")
	if !ok {
		return "", fmt.Errorf("%w: %.200q: want algorithm:hex, as in sha256:e3b0c442…", ErrDigestInvalid, s)
	}
	var size int
	switch algorithm {
	case "sha256":
		size = sha256.Size
	case "sha512":
		size = sha512.Size
	default:
		return "", fmt.Errorf("%w: %.200q: algorithm is not sha256 or sha512", ErrDigestInvalid, s)
	}
	if len(sum) != 2*size || strings.Trim(sum, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%w: %.200q: want %d lower-case hex digits", ErrDigestInvalid, s, 2*size)
	}
	return Digest(s), nil
}

// Algorithm is "sha256" or "sha512".
func (d Digest) Algorithm() string {
	algorithm, _, _ := strings.Cut(string(d), ":")
	return algorithm
}

// Hex is the hash in lower-case hex.
func (d Digest) Hex() string {
	_, sum, _ := strings.Cut(string(d), ":")
	return sum
}

func (d Digest) String() string { return string(d) }

// Hash returns a new hash of d's algorithm.
func (d Digest) Hash() hash.Hash {
	if d.Algorithm() == "sha512" {
		return sha512.New()
	}
	return sha256.New()
}

// Matches reports whether h, which has hashed all the bytes, arrived at d.
func (d Digest) Matches(h hash.Hash) bool {
	return hex.EncodeToString(h.Sum(nil)) == d.Hex()
}

// Empty reports whether d names zero bytes, the one digest whose blob may be an empty file.
func (d Digest) Empty() bool { return d.Matches(d.Hash()) }
