package oci

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Kind says which endpoint of the distribution API a path names (OCI distribution spec v1.1, "Endpoints").
type Kind int

// The endpoints a client may ask for.
const (
	KindPing      Kind = iota // end-1: /v2/
	KindBlob                  // end-2: /v2/<name>/blobs/<digest>
	KindManifest              // end-3: /v2/<name>/manifests/<tag or digest>
	KindUpload                // end-4a to end-6: /v2/<name>/blobs/uploads/…
	KindTags                  // end-8a: /v2/<name>/tags/list
	KindReferrers             // end-12a: /v2/<name>/referrers/<digest>
	KindCatalog               // /v2/_catalog, which Docker's registry adds
)

// String is the kind's name in logs and metrics.
func (k Kind) String() string {
	return [...]string{"ping", "blob", "manifest", "upload", "tags", "referrers", "catalog"}[k]
}

// Path is a parsed path of the distribution API.
type Path struct {
	Kind       Kind
	Repository string // canonical; empty for ping and catalog
	Tag        string // of a manifest asked for by tag
	Digest     Digest // of a blob, of referrers, or of a manifest asked for by digest
	Session    string // what follows /blobs/uploads/, for an upload
}

// Limits of the grammar. Docker's reference grammar allows 255 characters of name; a tag has at most 128.
const (
	maxRepository = 255
	maxTag        = 128
)

// ParsePath parses the escaped path of a request. The grammar needs no escapes, so a path that has any, or a dot
// segment, a doubled slash or any other second spelling, is refused: one thing has one path. The session of an upload
// alone is the registry's own word, and stays as it is spelled. Errors are [*Error].
func ParsePath(escaped string) (Path, error) {
	rest, ok := strings.CutPrefix(escaped, "/v2")
	if !ok || (rest != "" && rest[0] != '/') {
		return Path{}, &Error{Code: CodeUnsupported, HTTPStatus: 404, Message: "no such path: the registry API is below /v2/"}
	}
	rest = strings.TrimPrefix(rest, "/")
	if name, session, ok := strings.Cut(rest, "/blobs/uploads/"); ok && strings.Contains(session, "%") && opaque(session) {
		return withRepository(Path{Kind: KindUpload, Session: session}, name)
	}
	if strings.Contains(rest, "%") {
		return Path{}, &Error{Code: CodeNameInvalid, Message: "path has percent escapes, which no repository, tag or digest needs"}
	}
	switch rest {
	case "":
		return Path{Kind: KindPing}, nil
	case "_catalog":
		return Path{Kind: KindCatalog}, nil
	}
	if name, session, ok := cutLast(rest, "/blobs/uploads"); ok && (session == "" || session[0] == '/') {
		return withRepository(Path{Kind: KindUpload, Session: strings.TrimPrefix(session, "/")}, name)
	}
	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return withRepository(Path{Kind: KindTags}, name)
	}
	for _, end := range []struct {
		infix string
		kind  Kind
	}{{"/manifests/", KindManifest}, {"/blobs/", KindBlob}, {"/referrers/", KindReferrers}} {
		if name, last, ok := cutLast(rest, end.infix); ok && !strings.Contains(last, "/") {
			p, err := withReference(Path{Kind: end.kind}, last)
			if err != nil {
				return Path{}, err
			}
			return withRepository(p, name)
		}
	}
	return Path{}, &Error{Code: CodeUnsupported, HTTPStatus: 404, Message: "no such endpoint: want /v2/<name>/manifests/<tag or digest> or /v2/<name>/blobs/<digest>"}
}

// opaque reports whether a session leads nowhere else, in whichever way a server reads its escapes.
func opaque(session string) bool {
	decoded, err := url.PathUnescape(session)
	return err == nil && !slices.ContainsFunc(strings.FieldsFunc(decoded, func(r rune) bool { return r == '/' || r == '\\' }), func(segment string) bool {
		return segment == "." || segment == ".."
	})
}

func withRepository(p Path, name string) (Path, error) {
	if err := ValidRepository(name); err != nil {
		return Path{}, &Error{Code: CodeNameInvalid, Message: err.Error()}
	}
	p.Repository = name
	return p, nil
}

// withReference fills in the last segment: a digest where it has a colon or the endpoint takes nothing else.
func withReference(p Path, last string) (Path, error) {
	if p.Kind != KindManifest || strings.Contains(last, ":") {
		d, err := ParseDigest(last)
		if err != nil {
			return Path{}, &Error{Code: CodeDigestInvalid, Message: err.Error()}
		}
		p.Digest = d
		return p, nil
	}
	if !validTag(last) {
		return Path{}, &Error{Code: CodeTagInvalid, Message: fmt.Sprintf("tag %.200q: want 1 to 128 of A-Z a-z 0-9 _ . - not starting with . or -", last)}
	}
	p.Tag = last
	return p, nil
}

// ValidRepository says what is wrong with a repository name, or nothing: lower-case components joined by slashes,
// each of letters and digits with single separators ".", "_", "__" or dashes between them.
func ValidRepository(name string) error {
	if name == "" || len(name) > maxRepository {
		return fmt.Errorf("repository name has %d characters: want 1 to %d", len(name), maxRepository)
	}
	for component := range strings.SplitSeq(name, "/") {
		if !validComponent(component) {
			return fmt.Errorf("repository name %.200q: component %.100q: want lower-case letters and digits with single separators . _ __ or - between them", name, component)
		}
	}
	return nil
}

func validComponent(c string) bool {
	alnum := func(b byte) bool { return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' }
	if c == "" || !alnum(c[0]) || !alnum(c[len(c)-1]) {
		return false
	}
	for i := 0; i < len(c); {
		if alnum(c[i]) {
			i++
			continue
		}
		start := i
		for !alnum(c[i]) { // ends: the last byte is alphanumeric
			i++
		}
		if sep := c[start:i]; sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
			return false
		}
	}
	return true
}

func validTag(tag string) bool {
	const word = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"
	return tag != "" && len(tag) <= maxTag && strings.IndexByte(word, tag[0]) >= 0 && strings.Trim(tag, word+".-") == ""
}

// cutLast cuts s around the last sep: a repository may itself have a component named "blobs" or "manifests".
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+len(sep):], true
}

// String is the path in its one spelling.
func (p Path) String() string {
	switch p.Kind {
	case KindPing:
		return "/v2/"
	case KindCatalog:
		return "/v2/_catalog"
	case KindTags:
		return "/v2/" + p.Repository + "/tags/list"
	case KindUpload:
		return "/v2/" + p.Repository + "/blobs/uploads/" + p.Session
	}
	infix := map[Kind]string{KindBlob: "/blobs/", KindManifest: "/manifests/", KindReferrers: "/referrers/"}[p.Kind]
	return "/v2/" + p.Repository + infix + p.Reference()
}

// Reference is the digest or the tag that a manifest, blob or referrers path ends in.
func (p Path) Reference() string {
	if p.Digest != "" {
		return string(p.Digest)
	}
	return p.Tag
}
