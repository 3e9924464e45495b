package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
)

const (
	// replaceablePatience is how long a replaceable registry may take to begin its answer: clients wait for it.
	replaceablePatience = 10 * time.Second
	// replaceableRest is for how long one that was down is not asked for what has a digest, which others deliver as well.
	// For how long one that has had too many requests is not, package ratelimit says.
	replaceableRest = 30 * time.Second
)

const (
	// errSlow is why a replaceable registry is given up.
	errSlow = safeError("no answer in time, and there are fallbacks")
	// ErrRests is why it is not asked.
	ErrRests = safeError("left alone for a while, since it was down and there are fallbacks")
)

type insistKey struct{}

// Insist returns a context in which a registry is asked although it rests.
func Insist(ctx context.Context) context.Context { return context.WithValue(ctx, insistKey{}, true) }

// replaceable reports whether others may answer a request in its registry's stead: one for content, that is. A question
// that follows no redirects asks what the registry itself says.
func (c *Client) replaceable(req *Request) bool {
	if !c.cfg.Hosts[req.Registry.Authority()].Replaceable || req.NoFollow || !req.repeatable() {
		return false
	}
	kind := req.path().Kind
	return kind == oci.KindBlob || kind == oci.KindManifest
}

// inTime is one, given up where no answer begins within replaceablePatience, and not even tried where the registry was
// down a moment ago and what is asked for has a digest. What a tag means is the registry's to say as long as it can.
func (c *Client) inTime(ctx context.Context, req Request) (*http.Response, error) {
	if req.path().Digest != "" && c.resting.Has(req.Registry) && ctx.Value(insistKey{}) == nil {
		return nil, &UnreachableError{Registry: req.Registry, Err: ErrRests}
	}
	within, cancel := context.WithCancelCause(ctx)
	patience := time.AfterFunc(replaceablePatience, func() { cancel(errSlow) })
	resp, err := c.one(within, req)
	if !patience.Stop() && err == nil { // too late, although it came
		_ = resp.Body.Close()
		resp, err = nil, errSlow
	}
	if errors.Is(err, errSlow) {
		err = &UnreachableError{Registry: req.Registry, Host: req.Registry.Authority(), Err: errSlow}
	}
	switch {
	case ctx.Err() != nil:
	case isDown(resp, err):
		c.resting.Add(req.Registry, replaceableRest)
	case err == nil:
		c.resting.Remove(req.Registry)
	}
	if err != nil {
		cancel(err)
		return nil, err
	}
	resp.Body = &endingBody{resp.Body, cancel}
	return resp, nil
}

// isDown reports whether a registry is in trouble that others may not be in.
func isDown(resp *http.Response, err error) bool {
	if err == nil {
		return resp.StatusCode >= http.StatusInternalServerError
	}
	_, unreachable := errors.AsType[*UnreachableError](err)
	return unreachable && !errors.Is(err, ratelimit.ErrReserved)
}

// endingBody ends its request's context when it is closed.
type endingBody struct {
	io.ReadCloser
	end context.CancelCauseFunc
}

func (b *endingBody) Close() error {
	defer b.end(context.Canceled)
	return b.ReadCloser.Close()
}
