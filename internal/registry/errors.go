package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/fill"
	"container-registry-proxy/internal/gather"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/upstream"
)

// statusClientGone is recorded, never sent, for a client that left before it was answered.
const statusClientGone = 499

// lookAgain is in how many seconds a registry that cannot be reached is looked for again.
const lookAgain = "30"

// writeError turns an error into a response. Errors of our own making have their code; a registry's refusal is passed
// on in its own words; anything else is a 502 whose text names no internals.
func (h *Handler) writeError(w http.ResponseWriter, r *http.Request, err error) {
	rec := accesslog.From(r.Context())
	rec.Err = err.Error()
	var cut *errCut
	if errors.As(err, &cut) {
		var gone clientGone
		if errors.As(err, &gone) {
			rec.Status = statusClientGone
		}
		abort(w, r) // the head is out: only the connection can still say that the body is not whole
	}
	if r.Context().Err() != nil {
		rec.Status = statusClientGone
		panic(http.ErrAbortHandler) // to return without an answer would be a 200, to a client that has closed but one half
	}
	var refusal *upstream.Refusal
	if errors.As(err, &refusal) {
		writeRefusal(w, r, refusal)
		return
	}
	if end, ok := errors.AsType[*fill.EndError](err); ok && end.Size >= 0 {
		w.Header().Set("Content-Range", unsatisfied(end.Size))
		err = errUnsatisfiable
	}
	if _, unreachable := errors.AsType[*upstream.UnreachableError](err); unreachable {
		w.Header().Set("Retry-After", lookAgain)
	}
	writeWireError(w, r, wireError(err, rec.RequestID))
}

// abort cuts the connection and panics. Where its end is all that tells a client that the body has ended, which is so for
// HTTP/1.0 without a length, it is reset: a proper end would pass for that of the body.
func abort(w http.ResponseWriter, r *http.Request) {
	if !r.ProtoAtLeast(1, 1) && w.Header().Get("Content-Length") == "" {
		if conn := gather.From(r); conn != nil {
			reset(conn.Conn)
		} else if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			reset(conn)
		}
	}
	panic(http.ErrAbortHandler)
}

// reset closes a connection, or what is below it, with a TCP reset.
func reset(conn net.Conn) {
	for below, ok := conn.(interface{ NetConn() net.Conn }); ok; below, ok = conn.(interface{ NetConn() net.Conn }) {
		conn = below.NetConn() // not TLS, which says farewell
	}
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0) // a connection that is gone already needs none
	}
	_ = conn.Close()
}

func writeWireError(w http.ResponseWriter, r *http.Request, e *oci.Error) {
	body := e.Body()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Del("Etag")
	w.Header().Del("Docker-Content-Digest")
	w.WriteHeader(e.Status())
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may have left; there is nothing more to say
	}
}

// wireError finds the words for an error.
func wireError(err error, requestID string) *oci.Error {
	var wire *oci.Error
	var unreachable *upstream.UnreachableError
	var refused *dial.RefusedError
	var mismatch *store.DigestError
	switch {
	case errors.As(err, &wire):
		return wire
	case errors.As(err, &refused):
		return &oci.Error{Code: oci.CodeDenied, Message: refused.Error()}
	case errors.As(err, &mismatch):
		return &oci.Error{Code: oci.CodeUnknown, Message: "upstream sent bytes that are not " + string(mismatch.Want) + ": nothing was kept, try again"}
	case errors.Is(err, fill.ErrDraining):
		return &oci.Error{Code: oci.CodeUnavailable, Message: fill.ErrDraining.Error()}
	case errors.As(err, &unreachable) && timedOut(err):
		return &oci.Error{Code: oci.CodeUnavailable, HTTPStatus: http.StatusGatewayTimeout, Message: unreachable.Error()}
	case timedOut(err):
		return &oci.Error{Code: oci.CodeUnavailable, HTTPStatus: http.StatusGatewayTimeout, Message: "upstream did not answer in time"}
	case errors.As(err, &unreachable):
		return &oci.Error{Code: oci.CodeUnavailable, Message: unreachable.Error()}
	}
	return &oci.Error{Code: oci.CodeUnknown, Message: "upstream could not be used; the proxy's log has the reason under request " + requestID}
}

// timedOut reports whether the reason is that something took too long. Package net has more than one error for that.
func timedOut(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return errors.Is(err, context.DeadlineExceeded) || ok && timeout.Timeout()
}

// passedHeaders are the headers of a refusal that mean something to a client.
var passedHeaders = []string{
	"Www-Authenticate", "Retry-After", "Content-Range", "Warning", "Docker-Distribution-Api-Version",
	"Ratelimit-Limit", "Ratelimit-Remaining", "Docker-Ratelimit-Source",
}

// writeRefusal passes a registry's refusal on: its status, what a client can act on, and its error document. A body
// that is no OCI error document is replaced by one, which is what clients can read.
func writeRefusal(w http.ResponseWriter, r *http.Request, refusal *upstream.Refusal) {
	for _, name := range passedHeaders {
		if values := refusal.Header.Values(name); len(values) > 0 {
			w.Header()[name] = values
		}
	}
	if refusal.Status == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", lookAgain)
	}
	body := refusal.Body
	if !isErrorDocument(body) {
		writeWireError(w, r, &oci.Error{
			Code: codeFor(r, refusal.Status), HTTPStatus: refusal.Status,
			Message: strings.TrimSpace("upstream answered "+strconv.Itoa(refusal.Status)+" "+http.StatusText(refusal.Status)) + words(refusal),
		})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(refusal.Status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // as above
	}
}

// words are a registry's own where it says in plain text what is wrong, as ECR and rate limits do.
func words(refusal *upstream.Refusal) string {
	mediaType, _, _ := strings.Cut(refusal.Header.Get("Content-Type"), ";")
	text := strings.TrimSpace(string(refusal.Body))
	if mediaType != "" && mediaType != "text/plain" || text == "" || len(text) > 300 || strings.HasPrefix(text, "<") || !utf8.ValidString(text) {
		return ""
	}
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return ""
	}
	return ": " + text
}

func isErrorDocument(body []byte) bool {
	var doc struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	return json.Unmarshal(bytes.TrimSpace(body), &doc) == nil && len(doc.Errors) > 0 && doc.Errors[0].Code != ""
}

// codeFor is the code of a refusal that names none.
func codeFor(r *http.Request, status int) string {
	switch status {
	case http.StatusUnauthorized:
		return oci.CodeUnauthorized
	case http.StatusForbidden:
		return oci.CodeDenied
	case http.StatusNotFound:
		p, _ := oci.ParsePath(r.URL.EscapedPath()) // it was parsed before
		switch p.Kind {
		case oci.KindManifest:
			return oci.CodeManifestUnknown
		case oci.KindBlob:
			return oci.CodeBlobUnknown
		}
		return oci.CodeNameUnknown
	case http.StatusTooManyRequests:
		return oci.CodeTooManyRequests
	}
	if status >= 500 {
		return oci.CodeUnavailable
	}
	return oci.CodeUnknown
}
