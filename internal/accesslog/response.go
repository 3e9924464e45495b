package accesslog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"

	"container-registry-proxy/internal/oci"
)

// responseWriter notes what passes through it. It has no ReadFrom on purpose: bodies are copied in steps that their
// senders choose, and ReadFrom would choose smaller ones.
type responseWriter struct {
	http.ResponseWriter
	head     bool // answers a HEAD: what is written is not sent
	status   int  // 0 until the head of the response is out
	bytes    int64
	hijacked bool
	failed   bool // a write did
}

func (w *responseWriter) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *responseWriter) Write(p []byte) (int, error) {
	w.begin()
	n, err := w.ResponseWriter.Write(p)
	if !w.head {
		w.bytes += int64(n)
	}
	if err != nil && !errors.Is(err, http.ErrBodyNotAllowed) && !errors.Is(err, http.ErrContentLength) {
		w.failed = true
	}
	return n, err
}

// begin notes that net/http sends a 200 where nobody has chosen a status.
func (w *responseWriter) begin() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
}

// FlushError is how [http.ResponseController] flushes.
func (w *responseWriter) FlushError() error {
	w.begin()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack is how [http.ResponseController] hijacks.
func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.hijacked = err == nil
	return conn, buffered, err
}

// Unwrap lets [http.ResponseController] find deadlines and full duplex.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// complete fills in what the response shows, where the handler did not say otherwise.
func (w *responseWriter) complete(r *http.Request, rec *Record) {
	rec.Bytes += w.bytes
	switch {
	case rec.Status != 0:
	case w.failed, w.status == 0 && !w.hijacked && errors.Is(r.Context().Err(), context.Canceled):
		rec.Status = StatusClientGone
	case w.status != 0:
		rec.Status = w.status
	case w.hijacked && r.Method != http.MethodConnect:
		rec.Status = http.StatusSwitchingProtocols
	default:
		rec.Status = http.StatusOK
	}
}

// recovered handles what recover returned and reports whether the connection has to be cut.
func (l *Log) recovered(ctx *recordContext, w *responseWriter, p any) (abort bool) {
	if p == nil {
		return false
	}
	if p == http.ErrAbortHandler {
		return true
	}
	rec := &ctx.record
	rec.Err = fmt.Sprintf("panic: %v", p)
	l.log.LogAttrs(ctx, slog.LevelError, "panic in a request; the connection is given up, the process goes on",
		slog.String("request_id", clean(rec.RequestID)), slog.String("err", clean(rec.Err)), slog.String("stack", string(debug.Stack())))
	if w.hijacked || w.status != 0 {
		return !w.hijacked
	}
	writeInternalError(w, rec.RequestID)
	return false
}

func writeInternalError(w http.ResponseWriter, requestID string) {
	wire := oci.Error{
		Code: oci.CodeUnknown, HTTPStatus: http.StatusInternalServerError,
		Message: "the proxy made a mistake; its log has the reason under request " + requestID,
	}
	body := wire.Body()
	clear(w.Header())
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(wire.Status())
	_, _ = w.Write(body) // the client may have left; there is nothing more to say
}
