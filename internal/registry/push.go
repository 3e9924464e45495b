package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream"
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
// nothing else. What it makes old is forgotten.
func (h *Handler) push(w http.ResponseWriter, r *http.Request, reg oci.Registry, p oci.Path) error {
	rec := accesslog.From(r.Context())
	rec.Outcome = string(cache.Bypass)
	if !h.cfg.AllowPush {
		return notAllowed(w, "pushing through this proxy is off: its operator can allow it with ALLOW_PUSH=true")
	}
	if h.cfg.BufferRequests && r.ContentLength != 0 {
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
