package registry

import (
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/fill"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// pull answers a GET or HEAD of a manifest or a blob (OCI distribution spec v1.1, end-2 and end-3).
func (h *Handler) pull(w http.ResponseWriter, r *http.Request, reg oci.Registry, p oci.Path) error {
	pull := cache.Pull{
		Caller: caller(r), Registry: reg, Path: p,
		Accept:  r.Header.Values("Accept"),
		Want:    wanted(r.Header.Get("Range")),
		Head:    r.Method == http.MethodHead,
		NoCache: noCache(r),
	}
	get := h.cfg.Cache.Manifest
	if p.Kind == oci.KindBlob {
		get = h.cfg.Cache.Blob
	}
	content, err := get(r.Context(), pull)
	if err != nil {
		return err
	}
	defer content.Close()
	mark(w, r, p, content)
	return h.give(w, r, p, content)
}

// noCache reports whether a client asks for an answer that its registry has confirmed.
func noCache(r *http.Request) bool {
	return strings.Contains(strings.ToLower(strings.Join(r.Header.Values("Cache-Control"), ",")), "no-cache")
}

// give writes a content: headers, then as much of the body as was asked for.
func (h *Handler) give(w http.ResponseWriter, r *http.Request, p oci.Path, content *cache.Content) error {
	desc := content.Descriptor
	rec := accesslog.From(r.Context())
	rec.Digest, rec.Size = string(desc.Digest), desc.Size
	header := w.Header()
	for name, values := range content.Notes {
		header[name] = values
	}
	if desc.Digest != "" {
		header.Set("Docker-Content-Digest", string(desc.Digest))
		header.Set("Etag", `"`+string(desc.Digest)+`"`)
	}
	if noneMatch(r.Header.Get("If-None-Match"), desc.Digest) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if p.Kind == oci.KindBlob {
		header["Content-Type"], header["Accept-Ranges"] = octetStream, inBytes
	} else {
		header.Set("Content-Type", desc.MediaType)
	}
	size, err := sure(r, content)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		setLength(header, size)
		w.WriteHeader(http.StatusOK)
		return nil
	}
	if p.Kind != oci.KindBlob {
		return h.whole(w, r, content, size)
	}
	spans, err := ranges(r, desc.Digest, size)
	if err != nil {
		header.Set("Content-Range", unsatisfied(size))
		return err
	}
	switch len(spans) {
	case 0:
		return h.whole(w, r, content, size)
	case 1:
		return h.part(w, r, content, size, spans[0])
	}
	return h.parts(w, r, content, size, spans)
}

// sure returns the size to answer with, -1 where it is not known. A body that would be withheld to its end anyway is
// waited for, so that wrong bytes become a clear error instead of a cut connection; so is one whose size is not known
// where the client could not tell a cut from its end (HTTP/1.0) or asked for a part of it.
func sure(r *http.Request, content *cache.Content) (int64, error) {
	size := content.Descriptor.Size
	body := content.Body
	if body == nil || r.Method == http.MethodHead {
		return size, nil
	}
	if !body.Verified() {
		if size > fill.Withheld || (size < 0 && r.ProtoAtLeast(1, 1) && r.Header.Get("Range") == "") {
			return size, nil
		}
		if err := body.Await(); err != nil && !errors.Is(err, store.ErrNoSpace) {
			return 0, err
		}
	}
	if sized, ok := body.(interface{ Size() int64 }); ok {
		size = sized.Size()
	}
	return size, nil
}

func (h *Handler) whole(w http.ResponseWriter, r *http.Request, content *cache.Content, size int64) error {
	setLength(w.Header(), size)
	w.WriteHeader(http.StatusOK)
	return send(w, w, r, content.Body.Range(0, size))
}

func (h *Handler) part(w http.ResponseWriter, r *http.Request, content *cache.Content, size int64, s span) error {
	markUnverified(w, content, size, s)
	w.Header().Set("Content-Range", s.contentRange(size))
	setLength(w.Header(), s.end-s.start)
	w.WriteHeader(http.StatusPartialContent)
	return send(w, w, r, content.Body.Range(s.start, s.end))
}

// parts answers a multi-range request, which podman's zstd:chunked and lazy snapshotters send (RFC 9110, section 14.6).
func (h *Handler) parts(w http.ResponseWriter, r *http.Request, content *cache.Content, size int64, spans []span) error {
	markUnverified(w, content, size, spans...)
	header := w.Header()
	partType := header.Get("Content-Type")
	var length counter
	boundary, err := writeParts(&length, "", partType, size, spans, func(_ io.Writer, s span) error {
		length += counter(s.end - s.start)
		return nil
	})
	if err != nil {
		return err
	}
	header.Set("Content-Type", "multipart/byteranges; boundary="+boundary)
	setLength(header, int64(length))
	w.WriteHeader(http.StatusPartialContent)
	_, err = writeParts(w, boundary, partType, size, spans, func(part io.Writer, s span) error {
		return send(part, w, r, content.Body.Range(s.start, s.end))
	})
	return err
}

// writeParts writes the frame of a multipart/byteranges body, and has fill write what is between. An empty boundary
// means a new one.
func writeParts(w io.Writer, boundary, partType string, size int64, spans []span, fill func(io.Writer, span) error) (string, error) {
	mw := multipart.NewWriter(w)
	if boundary != "" {
		_ = mw.SetBoundary(boundary) // one of its own
	}
	for _, s := range spans {
		part, err := mw.CreatePart(textproto.MIMEHeader{"Content-Range": {s.contentRange(size)}, "Content-Type": {partType}})
		if err != nil {
			return "", &errCut{clientGone{err}}
		}
		if err := fill(part, s); err != nil {
			return "", err
		}
	}
	if err := mw.Close(); err != nil {
		return "", &errCut{clientGone{err}}
	}
	return mw.Boundary(), nil
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func setLength(header http.Header, size int64) {
	if size >= 0 {
		header.Set("Content-Length", strconv.FormatInt(size, 10))
	}
}

// noneMatch evaluates If-None-Match (RFC 9110, section 13.1.2) against the one entity tag that a digest has.
func noneMatch(header string, d oci.Digest) bool {
	if header == "" || d == "" {
		return false
	}
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == "*" || tag == `"`+string(d)+`"` {
			return true
		}
	}
	return false
}
