package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"os"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// isPush reports whether a request is part of a push: anything that writes, and the status of an upload.
func isPush(method string, kind oci.Kind) bool {
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return true
	case http.MethodGet, http.MethodHead:
		return kind == oci.KindUpload
	}
	return false
}

// push passes a push through (OCI distribution spec v1.1, end-4a to end-10) with the client's own Authorization and
// nothing else, unless the operator has lent his for pushes. What it makes old is forgotten.
func (h *Handler) push(w http.ResponseWriter, r *http.Request, reg oci.Registry, p oci.Path) error {
	rec := accesslog.From(r.Context())
	rec.Outcome = string(cache.Bypass)
	rules := h.cfg.Rules()
	lent, err := h.mayPush(w, r, reg, p, rules)
	if err != nil {
		return err
	}
	if rules.BufferRequests && r.ContentLength != 0 {
		spool, err := spoolBody(r)
		if err != nil {
			return err
		}
		defer spool.Close()
	}
	changes := (p.Kind == oci.KindManifest || p.Kind == oci.KindBlob) && r.Method != http.MethodPost
	if changes {
		defer func() {
			if changes { // nobody knows what a push has done whose answer does not come
				h.cfg.Cache.Doubt(reg, p)
			}
		}()
	}
	var failure error
	proxy := h.relay(reg)
	if !lent.Empty() {
		toRegistry := proxy.Rewrite
		proxy.Rewrite = func(pr *httputil.ProxyRequest) {
			toRegistry(pr)
			pr.Out.Header.Set("Authorization", lent.Reveal())
		}
	}
	proxy.ErrorHandler = func(_ http.ResponseWriter, _ *http.Request, err error) { failure = relayError(reg, err) }
	proxy.ModifyResponse = func(resp *http.Response) error {
		switch {
		case changes && resp.StatusCode < 300:
			h.cfg.Cache.Pushed(reg, p)
			changes = false
		case resp.StatusCode < 500:
			changes = false
		}
		return nil
	}
	proxy.ServeHTTP(w, r)
	return failure
}

// mayPush says why a push may not go on, or returns what the operator lends to it.
func (h *Handler) mayPush(w http.ResponseWriter, r *http.Request, reg oci.Registry, p oci.Path, rules Rules) (lent secret.String, err error) {
	switch {
	case !rules.AllowPush && !rules.AllowPushWithOwnAuth:
		return lent, notAllowed(w, "pushing through this proxy is off: its operator can allow it with ALLOW_PUSH=true or ALLOW_PUSH_WITH_OWN_AUTH=true")
	case !caller(r).Authorization.Empty():
		return lent, nil
	}
	scope := auth.Scope("repository:" + p.Repository + ":pull,push")
	if rules.PushCentral != nil && rules.PushCentral(reg, p.Repository) {
		return h.lend(r.Context(), reg, scope)
	}
	if rules.AllowPush {
		return lent, nil
	}
	w.Header()["Www-Authenticate"] = auth.ForScope(h.challenge(r, reg), scope)
	return lent, &oci.Error{Code: oci.CodeUnauthorized, Message: "a push needs a login of the client's own (ALLOW_PUSH_WITH_OWN_AUTH)"}
}

// lend returns the operator's Authorization for a push. A push cannot be sent twice, so the registry is asked for its
// challenge before.
func (h *Handler) lend(ctx context.Context, reg oci.Registry, scope auth.Scope) (secret.String, error) {
	resp, err := h.cfg.Upstream.Do(ctx, upstream.Request{Method: http.MethodGet, Registry: reg, Path: "/v2/", Scope: scope, As: auth.Central})
	if err != nil {
		return secret.String{}, err
	}
	_ = resp.Body.Close()
	return h.cfg.Authorization(ctx, reg, scope, auth.Central)
}

// challenge is how the registry wants clients to log in, as far as it says.
func (h *Handler) challenge(r *http.Request, reg oci.Registry) []string {
	if known := h.cfg.Trust.Challenge(reg); len(known) > 0 {
		return known
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), h.cfg.GiveUp, access.ErrHangs)
	defer cancel()
	ping, err := http.NewRequestWithContext(ctx, http.MethodGet, reg.Scheme()+"://"+reg.Authority()+"/v2/", nil)
	if err != nil {
		return nil
	}
	resp, err := h.cfg.Upstream.Transport().RoundTrip(ping)
	if err != nil {
		return nil
	}
	_ = resp.Body.Close()
	h.cfg.Trust.Challenged(reg, resp)
	return h.cfg.Trust.Challenge(reg)
}

// relayError gives an error of the transport the words that a client may see.
func relayError(reg oci.Registry, err error) error {
	var refused *dial.RefusedError
	var unreachable *upstream.UnreachableError
	if errors.As(err, &refused) || errors.As(err, &unreachable) {
		return err
	}
	return &oci.Error{Code: oci.CodeUnavailable, HTTPStatus: http.StatusBadGateway, Message: fmt.Sprintf("the connection to %s failed", reg)}
}

// spoolBody receives the whole body into a file without a name and makes it the request's body. The file is gone when
// it is closed.
func spoolBody(r *http.Request) (io.Closer, error) {
	file, err := os.CreateTemp("", "push-")
	if err != nil {
		return nil, fmt.Errorf("buffer request: %w (PROXY_REQUEST_BUFFERING=false does without)", err)
	}
	_ = os.Remove(file.Name()) // the open file stays
	size, err := io.Copy(file, r.Body)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("buffer request: %w", err), file.Close())
	}
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(file), size, nil
	return file, nil
}
