package cache

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/fill"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// source delivers a blob under a grant. It implements [fill.Source].
type source struct {
	cache *Cache
	grant access.Grant
	path  oci.Path
}

func (s *source) Key() string {
	return fmt.Sprintf("%x %q %q", s.grant.As.Key(), s.grant.Registry, s.grant.Repository)
}

// Fetch asks the registry for the blob from start up to end. Its error is permanent where asking again would change
// nothing.
func (s *source) Fetch(ctx context.Context, start, end int64) (*fill.Delivery, error) {
	header := http.Header{}
	partial := start > 0 || end >= 0
	switch {
	case end >= 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", start, end-1))
	case start > 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-", start))
	}
	resp, err := s.cache.ask(ctx, s.grant, http.MethodGet, s.path, header)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		s.cache.cfg.Access.Answered(s.grant)
		return &fill.Delivery{Body: resp.Body, Size: resp.ContentLength, Ranges: resp.Header.Get("Accept-Ranges") == "bytes"}, nil
	case http.StatusPartialContent:
		first, size, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if partial && ok && first == start {
			s.cache.cfg.Access.Answered(s.grant)
			return &fill.Delivery{Body: resp.Body, Start: first, Size: size, Ranges: true}, nil
		}
		_ = resp.Body.Close()
		return nil, fmt.Errorf("upstream answered 206 with Content-Range %.100q to %q", resp.Header.Get("Content-Range"), header.Get("Range"))
	}
	return nil, &refusedError{upstream.NewRefusal(resp)}
}

// refusedError is a registry's refusal of a blob, which is final unless it speaks of passing trouble.
type refusedError struct{ *upstream.Refusal }

func (e *refusedError) Permanent() bool { return !e.Temporary() }
func (e *refusedError) Unwrap() error   { return e.Refusal }

// parseContentRange takes "bytes first-last/size" apart (RFC 9110, section 14.4); an unknown size is -1.
func parseContentRange(s string) (first, size int64, ok bool) {
	rest, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, 0, false
	}
	span, total, ok := strings.Cut(rest, "/")
	if !ok {
		return 0, 0, false
	}
	from, to, ok := strings.Cut(span, "-")
	if !ok {
		return 0, 0, false
	}
	first, err := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	if err != nil || err2 != nil || first < 0 || last < first {
		return 0, 0, false
	}
	if total == "*" {
		return first, -1, true
	}
	size, err = strconv.ParseInt(total, 10, 64)
	if err != nil || last >= size {
		return 0, 0, false
	}
	return first, size, true
}

// ask sends one request under a grant.
func (c *Cache) ask(ctx context.Context, g access.Grant, method string, p oci.Path, header http.Header) (*http.Response, error) {
	return c.cfg.Registries.Do(ctx, upstream.Request{
		Method:   method,
		Registry: g.Registry,
		Path:     p.String(),
		Scope:    auth.PullScope(p.Repository),
		As:       g.As,
		Header:   header,
	})
}
