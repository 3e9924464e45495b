// Package accesslog keeps one record of each request: one line in the log and one count in the metrics, written when the
// request ends, however it ends. Its invariant: what strangers send can neither forge a line nor make a metric; every
// string is bounded and printable, labels come from closed sets, and neither an Authorization nor the query of a signed
// URL is ever written. It is also the one place that recovers from a panic, so that the process outlives it.
package accesslog

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// Config has what Log needs; the zero value records nothing but still recovers from panics.
type Config struct {
	// Log gets the lines; nil means discard.
	Log *slog.Logger
	// Registerer takes the metrics; nil means they are kept nowhere.
	Registerer prometheus.Registerer
	// Registries maps a registry to its label: itself, or "other" where it is not one of a fixed set. Nil means that
	// all are "other".
	Registries func(registry string) string
}

// Log writes records. It is safe for concurrent use, and a nil Log writes nothing.
type Log struct {
	log     *slog.Logger
	metrics *metrics
}

// New returns a log over cfg.
func New(cfg Config) *Log {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Log{log: cfg.Log, metrics: newMetrics(cfg)}
}

// Handler gives each request of next a [Record], to be had with [From], and writes it when next is done. A panic with
// [http.ErrAbortHandler] is recorded and goes on, which cuts the connection. Any other panic is logged with its stack
// and answered with 500, or by cutting the connection where the head of a response is out already.
//
// What it hands to next supports Flush and Hijack through [http.ResponseController] alone. A handler that hijacks the
// connection adds what it sends to the record's Bytes itself.
func (l *Log) Handler(next http.Handler) http.Handler {
	if l == nil {
		l = New(Config{})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := &recordContext{Context: r.Context(), record: *NewRecord(r)}
		rw := &responseWriter{ResponseWriter: w, head: r.Method == http.MethodHead}
		defer func() {
			abort := l.recovered(rc, rw, recover())
			rw.complete(r, &rc.record)
			l.Emit(rc, &rc.record)
			if abort {
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(rw, r.WithContext(rc))
	})
}

// Emit writes a record that no Handler writes: that of a tunnel. The record's Duration is taken from its Time where it
// has none.
func (l *Log) Emit(ctx context.Context, rec *Record) {
	if l == nil {
		return
	}
	rec.finish()
	l.metrics.count(rec)
	if l.log.Enabled(ctx, slog.LevelInfo) {
		l.log.LogAttrs(ctx, slog.LevelInfo, "request", rec.attrs()...)
	}
}

type recordKey struct{}

// recordContext is a context with room for the record in it: one allocation instead of two.
type recordContext struct {
	context.Context
	record Record
}

func (c *recordContext) Value(key any) any {
	if key == (recordKey{}) {
		return &c.record
	}
	return c.Context.Value(key)
}

// From returns the record of the request that ctx belongs to, and a scratch record where there is none: it is never nil.
// Only the goroutine that runs the handler may use the record, and only until the handler returns.
func From(ctx context.Context) *Record {
	if rec, ok := ctx.Value(recordKey{}).(*Record); ok {
		return rec
	}
	return &Record{}
}
