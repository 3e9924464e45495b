package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/upstream/auth"
)

const (
	// fallbackPatience is how long a registry that has fallbacks may take to begin its answer: clients wait for it.
	fallbackPatience = 10 * time.Second
	// fallbackRest is for how long a registry that was down is not asked for what has a digest, while its fallbacks
	// deliver. For how long one that has had too many requests is not, package ratelimit says.
	fallbackRest = 30 * time.Second
)

// errSlow is why a registry is given up whose fallbacks may be quicker.
const errSlow = safeError("no answer in time, and there are fallbacks")

type aloneKey struct{}

// Alone returns a context in which a registry answers for itself or not at all: its fallbacks are not asked, because
// something better than their answer is at hand.
func Alone(ctx context.Context) context.Context { return context.WithValue(ctx, aloneKey{}, true) }

// fallbacks are the registries that may answer a request in its registry's stead: one for content, that is. A question
// that follows no redirects asks what the registry itself says.
func (c *Client) fallbacks(ctx context.Context, req *Request) []oci.Registry {
	others := c.cfg.Hosts[req.Registry.Authority()].Fallbacks
	if len(others) == 0 || req.NoFollow || !req.repeatable() || ctx.Value(aloneKey{}) != nil {
		return nil
	}
	if kind := req.path().Kind; kind != oci.KindBlob && kind != oci.KindManifest {
		return nil
	}
	return others
}

// path is what the request asks for, as far as it can be told.
func (r *Request) path() oci.Path {
	path, _, _ := strings.Cut(r.Path, "?")
	p, err := oci.ParsePath(path)
	if err != nil {
		return oci.Path{}
	}
	return p
}

// doOrFallBack asks the registry and, where it cannot answer, its fallbacks in turn; if none of them can either, what the
// registry said stands. What has a digest can be had from anybody, so a registry in trouble is left alone for a while.
// What a tag means is the registry's to say as long as it can.
func (c *Client) doOrFallBack(ctx context.Context, req Request, others []oci.Registry) (*http.Response, error) {
	if req.path().Digest != "" && c.resting.is(req.Registry) {
		if resp := c.fallBack(ctx, req, others); resp != nil {
			return resp, nil
		}
		others = nil
	}
	resp, err := c.doInTime(ctx, req)
	down, limited := inability(ctx, resp, err)
	if !down && !limited {
		return resp, err
	}
	if resp != nil {
		keepRefusal(resp) // and let the registry's connection go
	}
	other := c.fallBack(ctx, req, others)
	if other == nil {
		return resp, err
	}
	if down {
		c.resting.begin(req.Registry)
	}
	return other, nil
}

// fallBack asks the fallbacks, and returns nil if none delivers. They are told what is wanted, and nothing of the
// registry's login or the client's: one that the operator has a login for is shown that one.
func (c *Client) fallBack(ctx context.Context, req Request, others []oci.Registry) *http.Response {
	for _, other := range others {
		to := req
		to.Registry, to.As, to.Header = other, auth.Anonymous, req.header(false)
		if c.auth.HasCentralFor(other, req.path().Repository) {
			to.As = auth.Central
		}
		resp, err := c.doInTime(ctx, to)
		if err == nil && resp.StatusCode/100 == 2 {
			c.metrics.fellBack(req.Registry)
			return resp
		}
		if err == nil {
			discard(resp)
		}
		c.cfg.Log.DebugContext(ctx, "fallback does not deliver", "registry", string(req.Registry), "fallback", string(other), "err", err)
		if ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

// doInTime is one, given up where no answer begins within fallbackPatience.
func (c *Client) doInTime(ctx context.Context, req Request) (*http.Response, error) {
	within, cancel := context.WithCancelCause(ctx)
	patience := time.AfterFunc(fallbackPatience, func() { cancel(errSlow) })
	resp, err := c.one(within, req)
	if !patience.Stop() && err == nil { // too late, although it came
		_ = resp.Body.Close()
		resp, err = nil, errSlow
	}
	if err == nil {
		resp.Body = &endingBody{resp.Body, cancel}
		return resp, nil
	}
	cancel(err)
	if errors.Is(err, errSlow) {
		err = &UnreachableError{Registry: req.Registry, Err: errSlow}
	}
	return nil, err
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

// inability reports whether a registry cannot answer at present, because it is down or has had too many requests.
func inability(ctx context.Context, resp *http.Response, err error) (down, limited bool) {
	_, unreachable := errors.AsType[*UnreachableError](err)
	switch {
	case ctx.Err() != nil:
		return false, false
	case errors.Is(err, ratelimit.ErrReserved):
		return false, true
	case err != nil:
		return unreachable, false
	}
	return resp.StatusCode >= http.StatusInternalServerError, resp.StatusCode == http.StatusTooManyRequests
}

// keepRefusal reads a refusal, so that it can be passed on later.
func keepRefusal(resp *http.Response) {
	refusal := NewRefusal(resp)
	resp.Body = io.NopCloser(bytes.NewReader(refusal.Body))
	resp.ContentLength = int64(len(refusal.Body))
}

// resting has the registries that are left alone, and until when. There are as many as have fallbacks.
type resting struct {
	mu    sync.Mutex // guards until
	until map[oci.Registry]time.Time
}

func (r *resting) is(reg oci.Registry) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.until[reg])
}

func (r *resting) begin(reg oci.Registry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = map[oci.Registry]time.Time{}
	}
	r.until[reg] = time.Now().Add(fallbackRest)
}
