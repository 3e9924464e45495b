package cache

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/fill"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
	"container-registry-proxy/internal/via"
)

// maxRetryAfter bounds how long a fill waits because a registry asks for it.
const maxRetryAfter = 15 * time.Minute

// source delivers a blob under a grant. It implements [fill.Source].
type source struct {
	cache *Cache
	grant access.Grant
	path  oci.Path
	// purpose is of whom began the fill. Others may join it.
	purpose ratelimit.Purpose
	// through is what the client's request has come through: a fill belongs to no client, and may yet be part of a loop.
	through []string
	// insist has a registry asked that is left alone because others stand in for it: they do not deliver.
	insist bool
}

// source is what delivers p's blob under the grant.
func (c *Cache) source(ctx context.Context, p Pull, g access.Grant) *source {
	return &source{cache: c, grant: g, path: p.Path, purpose: p.purpose, through: via.Of(ctx), insist: p.insist}
}

func (s *source) Key() string {
	return fmt.Sprintf("%x %q %q %d", s.grant.As.Key(), s.grant.Registry, s.grant.Repository, s.purpose)
}

// Origin is the registry and the repository: who was asked as does not matter to what they deliver.
func (s *source) Origin() string { return string(s.grant.Registry) + " " + s.grant.Repository }

// Fetch asks the registry for the blob from start up to end. Its error is permanent where asking again would change
// nothing.
func (s *source) Fetch(ctx context.Context, start, end int64) (*fill.Delivery, error) {
	if s.insist {
		ctx = upstream.Insist(ctx)
	}
	header := http.Header{}
	partial := start > 0 || end >= 0
	switch {
	case end >= 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", start, end-1))
	case start > 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-", start))
	}
	resp, err := s.cache.askFor(via.NewContext(ctx, s.through), s.grant, s.purpose, http.MethodGet, s.path, header)
	if errors.Is(err, ratelimit.ErrReserved) {
		return nil, reservedError{err}
	}
	if err != nil {
		return nil, err
	}
	var delivery *fill.Delivery
	switch resp.StatusCode {
	case http.StatusOK:
		if err := decode(resp); err != nil {
			return nil, unusable(s.grant, resp, err)
		}
		delivery = &fill.Delivery{Body: resp.Body, Size: resp.ContentLength, Ranges: resp.Header.Get("Accept-Ranges") == "bytes"}
	case http.StatusPartialContent:
		first, size, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if !partial || !ok || first != start || resp.Header.Get("Content-Encoding") != "" {
			return nil, unusable(s.grant, resp, fmt.Errorf("upstream answered 206 with Content-Range %.100q to %q", resp.Header.Get("Content-Range"), header.Get("Range")))
		}
		delivery = &fill.Delivery{Body: resp.Body, Start: first, Size: size, Ranges: true}
	case http.StatusRequestedRangeNotSatisfiable:
		_ = resp.Body.Close()
		return nil, &fill.EndError{Size: sizeOf(resp)}
	default:
		after := (&upstream.Refusal{Header: resp.Header}).RetryAfter()
		return nil, &refusedError{s.grant.Refusal(resp), min(after, maxRetryAfter)}
	}
	s.cache.cfg.Access.Answered(s.grant, s.path)
	return delivery, nil
}

// reservedError ends what nobody waits for, where the rest of a registry's limit is for clients: one of them may go on.
type reservedError struct{ error }

func (reservedError) Permanent() bool { return true }
func (e reservedError) Unwrap() error { return e.error }

// refusedError is a registry's refusal of a blob, which is final unless it speaks of passing trouble.
type refusedError struct {
	error
	after time.Duration
}

func (e *refusedError) Permanent() bool           { return !passing(e.error) }
func (e *refusedError) RetryAfter() time.Duration { return e.after }
func (e *refusedError) Unwrap() error             { return e.error }

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

// decode undoes a Content-Encoding that nobody asked for, as some registries apply it to configs: a digest is of what
// was encoded. What is encoded otherwise is an error.
func decode(resp *http.Response) error {
	switch encoding := strings.ToLower(strings.TrimSpace(resp.Header.Get("Content-Encoding"))); encoding {
	case "", "identity":
		return nil
	case "gzip", "x-gzip":
		plain, err := gzip.NewReader(resp.Body)
		if err != nil {
			return fmt.Errorf("content encoded as %s: %w", encoding, err)
		}
		resp.Body, resp.ContentLength = joinedBody{plain, resp.Body}, -1
		resp.Header.Del("Accept-Ranges")
		return nil
	default:
		return errors.New("content is encoded in a way that was not asked for")
	}
}

// ask sends one request under a grant. Where the operator's credentials, or a login that the caller need not have, are
// refused, what is open to everybody is still to be had.
func (c *Cache) ask(ctx context.Context, g access.Grant, method string, p oci.Path, header http.Header) (*http.Response, error) {
	return c.askFor(ctx, g, ratelimit.Client, method, p, header)
}

// askFor is ask for a request that matters less, where little is left of the registry's limit.
func (c *Cache) askFor(ctx context.Context, g access.Grant, purpose ratelimit.Purpose, method string, p oci.Path, header http.Header) (*http.Response, error) {
	req := upstream.Request{
		Purpose:  purpose,
		Method:   method,
		Registry: g.Registry,
		Path:     p.String(),
		Scope:    auth.PullScope(p.Repository),
		As:       g.As,
		Header:   header,
	}
	resp, err := c.cfg.Registries.Do(ctx, req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || g.Class == access.Own || g.As == auth.Anonymous {
		return resp, err
	}
	req.As = auth.Anonymous
	open, err := c.cfg.Registries.Do(ctx, req)
	if err != nil {
		return resp, nil
	}
	if open.StatusCode >= http.StatusMultipleChoices && g.Class == access.Central {
		_ = open.Body.Close()
		return resp, nil
	}
	_ = resp.Body.Close()
	return open, nil
}
