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
	}
	return kind == oci.KindUpload
}

// push passes a push through (OCI distribution spec v1.1, end-4a to end-10) with the client's own Authorization and
// nothing else. A manifest that was pushed drops what is known of its tag.
func (h *Handler) push(w http.ResponseWriter, r *http.Request, reg oci.Registry, p oci.Path) error {
	rec := accesslog.From(r.Context())
	rec.Outcome = string(cache.Bypass)
	if !h.cfg.AllowPush {
		w.Header().Set("Allow", "GET, HEAD")
		return &oci.Error{Code: oci.CodeUnsupported, Message: "pushing through this proxy is off: its operator can allow it with ALLOW_PUSH=true"}
	}
	if h.cfg.BufferRequests && r.ContentLength != 0 {
		spool, err := spoolBody(r)
		if err != nil {
			return err
		}
		defer spool.Close()
	}
	var failure error
	h.relay(reg, func(_ http.ResponseWriter, _ *http.Request, err error) {
		failure = relayError(reg, err)
	}, func(resp *http.Response) error {
		if p.Kind == oci.KindManifest && resp.StatusCode < 300 && p.Tag != "" {
			h.cfg.Cache.Pushed(reg, p)
		}
		return nil
	}).ServeHTTP(w, r)
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
