package oci

import (
	"fmt"
	"strings"
)

// Reference names an image as people do: "nginx", "quay.io/org/app:1.2", "ghcr.io/org/app@sha256:…".
type Reference struct {
	Registry   Registry
	Repository string
	Tag        string // empty where Digest is not
	Digest     Digest
}

// ParseReference reads a reference by Docker's rules: what is before the first slash is a registry if it has a dot or a
// colon, or is localhost; else the registry is Docker Hub, where a single name is below library/. Without a tag and a
// digest the tag is latest; with both the digest counts.
func ParseReference(s string) (Reference, error) {
	invalid := func(why string) (Reference, error) {
		return Reference{}, fmt.Errorf("image %.200q: %s: want one such as docker.io/library/alpine:3.20", s, why)
	}
	r, rest := Reference{Registry: DockerHub}, s
	if first, after, ok := strings.Cut(s, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		reg, err := ParseRegistry(first)
		if err != nil {
			return invalid(err.Error())
		}
		r.Registry, rest = reg, after
	}
	rest, digest, ok := strings.Cut(rest, "@")
	if ok {
		d, err := ParseDigest(digest)
		if err != nil {
			return invalid(err.Error())
		}
		r.Digest = d
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, r.Tag = rest[:i], rest[i+1:]
		if !validTag(r.Tag) {
			return invalid("its tag is none")
		}
	}
	if r.Registry == DockerHub && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	if err := ValidRepository(rest); err != nil {
		return invalid(err.Error())
	}
	r.Repository = rest
	switch {
	case r.Digest != "":
		r.Tag = ""
	case r.Tag == "":
		r.Tag = "latest"
	}
	return r, nil
}

// String spells the reference out: ParseReference of it is the same reference.
func (r Reference) String() string {
	if r.Digest != "" {
		return string(r.Registry) + "/" + r.Repository + "@" + string(r.Digest)
	}
	return string(r.Registry) + "/" + r.Repository + ":" + r.Tag
}

// Manifest is the path of what the reference names.
func (r Reference) Manifest() Path {
	return Path{Kind: KindManifest, Repository: r.Repository, Tag: r.Tag, Digest: r.Digest}
}

// Blob is the path of a blob beside it.
func (r Reference) Blob(d Digest) Path {
	return Path{Kind: KindBlob, Repository: r.Repository, Digest: d}
}

// At is the reference to another manifest of the same repository.
func (r Reference) At(d Digest) Reference {
	r.Tag, r.Digest = "", d
	return r
}
