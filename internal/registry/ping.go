package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// ping answers /v2/ (end-1), from which dockerd, podman and skopeo learn how to log in. With the operator's credentials
// it is answered here, so that no client looks for a login of its own; where clients may have one all the same, and
// wherever there are none, the registry's own word is what the client needs.
func (h *Handler) ping(w http.ResponseWriter, r *http.Request, reg oci.Registry) error {
	if h.cfg.HasCentral(reg, "") && !h.cfg.Rules().OwnFirst {
		return pong(w)
	}
	if h.cfg.Trust.Unreachable(reg) {
		return h.pingInOutage(w, r, reg)
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), h.cfg.GiveUp, access.ErrHangs)
	defer cancel()
	var failure error
	proxy := h.relay(reg)
	toRegistry := proxy.Rewrite
	proxy.Rewrite = func(pr *httputil.ProxyRequest) {
		toRegistry(pr)
		for name := range pr.Out.Header {
			if name != "Authorization" && name != "Accept" && name != "User-Agent" {
				pr.Out.Header.Del(name)
			}
		}
		pr.Out.Body, pr.Out.ContentLength = nil, 0
	}
	proxy.ModifyResponse = func(resp *http.Response) error { return h.pinged(r, reg, resp) }
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
		rec := accesslog.From(r.Context())
		rec.Err = err.Error()
		switch {
		case r.Context().Err() != nil: // the client has left
			failure = err
		case errors.Is(err, errLimited):
			failure = pong(w)
		case errors.Is(context.Cause(ctx), access.ErrHangs): // what the client asks next does not wait again
			h.cfg.Trust.Hung(reg)
			failure = h.pingInOutage(w, r, reg)
		default:
			h.cfg.Trust.Saw(reg, false)
			failure = h.pingInOutage(w, r, reg)
		}
	}
	proxy.ServeHTTP(w, r.WithContext(ctx))
	return failure
}

// errLimited says that a registry has had enough of pings. That must not keep anybody from what is cached.
var errLimited = errors.New("ping answered 429")

// pinged takes note of what a registry answers to a ping.
func (h *Handler) pinged(r *http.Request, reg oci.Registry, resp *http.Response) error {
	switch {
	case resp.StatusCode >= 500:
		return fmt.Errorf("ping answered %d", resp.StatusCode)
	case resp.StatusCode == http.StatusTooManyRequests:
		return errLimited
	}
	h.cfg.Trust.Saw(reg, true)
	who := caller(r)
	switch {
	case who.Authorization.Empty():
		h.cfg.Trust.Challenged(reg, resp)
	case resp.StatusCode < 300:
		h.cfg.Trust.Welcomed(who, reg)
	}
	return nil
}

// pingInOutage answers in the place of a registry that cannot be reached. A challenge that a login answers by itself is
// replayed, so that clients send theirs; who would have to ask a token service is spared that.
func (h *Handler) pingInOutage(w http.ResponseWriter, r *http.Request, reg oci.Registry) error {
	basic := auth.OnlyBasic(h.cfg.Trust.Challenge(reg))
	who := caller(r)
	switch {
	case len(basic) == 0 || h.cfg.HasCentral(reg, ""):
		return pong(w)
	case who.Authorization.Empty():
		w.Header()["Www-Authenticate"] = basic
		return &oci.Error{Code: oci.CodeUnauthorized, Message: "authentication required"}
	case h.cfg.Trust.Known(who, reg):
		return pong(w)
	}
	return &upstream.UnreachableError{Registry: reg, Err: errors.New("cannot say whether the login is good")}
}

func pong(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "2")
	_, err := io.WriteString(w, "{}")
	if err != nil {
		return &errCut{clientGone{err}}
	}
	return nil
}
