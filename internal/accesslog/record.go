package accesslog

import (
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The kinds of requests that are none of the distribution API's, which has its own names for its endpoints.
const (
	KindV1      = "v1"      // /v1/ of a registry
	KindToken   = "token"   // to an intercepted token service
	KindRest    = "rest"    // another path of an intercepted host, passed through untouched
	KindForward = "forward" // plain HTTP to a host that is not intercepted
	KindTunnel  = "tunnel"  // CONNECT to a host that is not intercepted
	KindLocal   = "local"   // the proxy's own pages
)

// StatusClientGone is recorded, never sent, for a client that left before it was answered (as nginx does).
const StatusClientGone = 499

// maxRequestID bounds an id that a client chose: a UUID has 36 characters, a trace id 32.
const maxRequestID = 64

// Record is what is known of one request. Whoever learns a fact sets its field; empty fields are left out of the line.
type Record struct {
	Time      time.Time // when the request came
	RequestID string
	Client    string // address without port
	Method    string
	Kind      string // endpoint of the distribution API, or one of the Kind constants

	Registry   string // host[:port]; of a tunnel, its authority
	Repository string
	Reference  string // tag or digest as asked for
	Digest     string // of what was answered
	Size       int64  // of what was asked for, where known

	Outcome   string // hit, miss, stale_hit, revalidated, coalesced or bypass; empty where no cache was asked
	CacheType string // the originals' name for how the answer may be cached
	// Status is what the client was answered. Left at 0 it is taken from the response; [StatusClientGone] is never
	// in a response and so has to be set, where it is not plain from the connection.
	Status   int
	Bytes    int64 // of bodies sent to the client; of a tunnel, in both directions
	Duration time.Duration
	Err      string // why it went wrong; for the log alone, never for the client
}

// NewRecord begins the record of r, for those who [Log.Emit] it themselves.
func NewRecord(r *http.Request) *Record {
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		client = r.RemoteAddr
	}
	return &Record{Time: time.Now(), RequestID: requestID(r), Client: client, Method: r.Method}
}

// requestID is the client's own where it is harmless, which joins its log to ours, or a random one.
func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= maxRequestID && strings.Trim(id, idAlphabet) == "" {
		return id
	}
	// It only has to be unlike the others: nothing is granted to who knows it.
	return strconv.FormatUint(rand.Uint64()|1<<63, 36)
}

const idAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

// finish fills in what follows from the rest.
func (rec *Record) finish() {
	if rec.Duration == 0 && !rec.Time.IsZero() {
		rec.Duration = time.Since(rec.Time)
	}
}

// attrs are the keys of the line, in a fixed order. An example:
//
//	{"time":"…","level":"INFO","msg":"request","method":"GET","kind":"blob","registry":"docker.io",
//	 "repository":"library/alpine","reference":"sha256:4bcf…","digest":"sha256:4bcf…","size":3408729,"outcome":"hit",
//	 "cache_type":"blob-by-digest","status":200,"bytes":3408729,"dur":1702394,"client":"192.0.2.7","request_id":"1v3kq…"}
func (rec *Record) attrs() []slog.Attr {
	attrs := make([]slog.Attr, 0, 16)
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, clean(value)))
		}
	}
	text("method", rec.Method)
	text("kind", rec.Kind)
	text("registry", rec.Registry)
	text("repository", rec.Repository)
	text("reference", rec.Reference)
	text("digest", rec.Digest)
	if rec.Size > 0 {
		attrs = append(attrs, slog.Int64("size", rec.Size))
	}
	text("outcome", rec.Outcome)
	text("cache_type", rec.CacheType)
	attrs = append(attrs,
		slog.Int("status", rec.Status), slog.Int64("bytes", rec.Bytes), slog.Duration("dur", rec.Duration))
	text("client", rec.Client)
	text("request_id", rec.RequestID)
	text("err", rec.Err)
	return attrs
}
