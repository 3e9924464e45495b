package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/upstream/auth"
)

// limited sends a request, unless its registry is left alone: then the response is what that said last. A 429 begins such
// a time. It is the registry's own if it comes from its token service: a pull is limited all the same.
func (c *Client) limited(ctx context.Context, req *Request, send func() (*http.Response, bool, error)) (*http.Response, error) {
	if !req.repeatable() { // a push is the client's own affair
		resp, _, err := send()
		return resp, err
	}
	account := c.auth.Account(ctx, req.Registry, req.Scope, req.As)
	turn, err := c.cfg.RateLimits.Enter(req.Registry, account, req.limitKind(), req.Purpose)
	if cooling, ok := errors.AsType[*ratelimit.CoolingError](err); ok {
		return tooMany(req, cooling.Header(), cooling.Answer.Body), nil
	}
	if err != nil {
		return nil, &UnreachableError{Registry: req.Registry, Err: err}
	}
	resp, home, err := send()
	if host, after, ok := auth.TooMany(err); ok && ctx.Err() == nil {
		turn.Done(ratelimit.Answer{})
		return tokenLimit(req, host, after), nil
	}
	if err != nil {
		turn.Done(ratelimit.Answer{})
		return nil, err
	}
	if home {
		c.cfg.RateLimits.Observe(req.Registry, account, resp.Header)
	}
	turn.Done(answerOf(resp))
	return resp, nil
}

// limitKind is what the request is counted as.
func (r *Request) limitKind() ratelimit.Kind {
	switch kind := r.path().Kind; {
	case kind == oci.KindBlob:
		return ratelimit.Blob
	case kind != oci.KindManifest:
		return ratelimit.Other
	case r.Method == http.MethodHead:
		return ratelimit.Head
	}
	return ratelimit.Manifest
}

// answerOf is what a response says of limits. The body of a 429 is read for it, and stays there to be read.
func answerOf(resp *http.Response) ratelimit.Answer {
	a := ratelimit.Answer{Status: resp.StatusCode, Header: resp.Header}
	if resp.StatusCode != http.StatusTooManyRequests {
		return a
	}
	a.Body, _ = io.ReadAll(io.LimitReader(resp.Body, maxRefusal)) // what there is of it is what there is to pass on
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(a.Body))
	return a
}

// tooMany is a 429 as the registry gave it before.
func tooMany(req *Request, header http.Header, body []byte) *http.Response {
	if req.Method == http.MethodHead {
		body = nil
	}
	return &http.Response{
		StatusCode: http.StatusTooManyRequests, Status: "429 Too Many Requests", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// tokenLimit is the 429 of a token service, in our words: nothing that such a service says is passed on.
func tokenLimit(req *Request, host string, after time.Duration) *http.Response {
	e := &oci.Error{Code: oci.CodeTooManyRequests, Message: "token service " + host + " of registry " + string(req.Registry) + " limits requests"}
	header := http.Header{"Content-Type": {"application/json"}}
	if after > 0 {
		header.Set("Retry-After", strconv.FormatInt(int64((after+time.Second-1)/time.Second), 10))
	}
	return tooMany(req, header, e.Body())
}
