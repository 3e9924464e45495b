package accesslog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// lines collects a log's lines.
type lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// requests decodes the access lines, each of which has to be one JSON object.
func (l *lines) requests(t *testing.T) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(l.String()) {
		var rec map[string]any
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatalf("line is no JSON object: %q: %v", line, err)
		}
		if rec["msg"] == "request" {
			all = append(all, rec)
		}
	}
	return all
}

func newLog() (*Log, *lines, *prometheus.Registry) {
	out, reg := &lines{}, prometheus.NewRegistry()
	return New(Config{
		Log: slog.New(slog.NewJSONHandler(out, nil)), Registerer: reg,
		Registries: func(registry string) string {
			if registry == "docker.io" {
				return registry
			}
			return "other"
		},
	}), out, reg
}

// serve answers one request and returns its line.
func serve(t *testing.T, r *http.Request, next http.HandlerFunc) (map[string]any, *httptest.ResponseRecorder) {
	t.Helper()
	log, out, _ := newLog()
	w := httptest.NewRecorder()
	log.Handler(next).ServeHTTP(w, r)
	all := out.requests(t)
	if len(all) != 1 {
		t.Fatalf("%d access lines, want 1: %s", len(all), out)
	}
	return all[0], w
}

func TestLine(t *testing.T) {
	t.Parallel()
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	r := httptest.NewRequest(http.MethodGet, "/v2/library/alpine/blobs/"+digest, nil)
	r.RemoteAddr = "192.0.2.7:40000"
	r.Header.Set("X-Request-Id", "9f1c-22.a_B")
	got, _ := serve(t, r, func(w http.ResponseWriter, r *http.Request) {
		rec := From(r.Context())
		rec.Kind, rec.Registry, rec.Repository, rec.Reference, rec.Digest = "blob", "docker.io", "library/alpine", digest, digest
		rec.Size, rec.Outcome, rec.CacheType = 1000, "hit", "blob-by-digest"
		w.WriteHeader(http.StatusPartialContent)
		_, _ = io.WriteString(w, "twelve bytes")
	})
	if dur, ok := got["dur"].(float64); !ok || dur <= 0 {
		t.Errorf("dur = %v, want a positive number of nanoseconds", got["dur"])
	}
	delete(got, "dur")
	delete(got, "time")
	want := map[string]any{
		"level": "INFO", "msg": "request", "method": "GET", "kind": "blob", "registry": "docker.io",
		"repository": "library/alpine", "reference": digest, "digest": digest, "size": 1000.0, "outcome": "hit",
		"cache_type": "blob-by-digest", "status": 206.0, "bytes": 12.0, "client": "192.0.2.7", "request_id": "9f1c-22.a_B",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
}

func TestStatusAndBytes(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name          string
		method        string
		ctx           context.Context
		next          http.HandlerFunc
		status, bytes float64
	}{
		{"nothing said is 200", "GET", nil, func(http.ResponseWriter, *http.Request) {}, 200, 0},
		{"body without a status", "GET", nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "abc") }, 200, 3},
		{"first status counts", "GET", nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404); w.WriteHeader(200) }, 404, 0},
		{"interim responses do not", "GET", nil, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(307) }, 307, 0},
		{"a flush sends 200", "GET", nil, func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			w.WriteHeader(500)
		}, 200, 0},
		{"a HEAD sends no body", "HEAD", nil, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "abc") }, 200, 0},
		{"the handler knows better", "GET", nil, func(w http.ResponseWriter, r *http.Request) {
			From(r.Context()).Status = StatusClientGone
			_, _ = io.WriteString(w, "abc")
		}, 499, 3},
		{"client gone before an answer", "GET", canceled, func(http.ResponseWriter, *http.Request) {}, 499, 0},
		{"client gone after the answer", "GET", canceled, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, 404, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(tt.method, "/v2/", nil)
			if tt.ctx != nil {
				r = r.WithContext(tt.ctx)
			}
			got, _ := serve(t, r, tt.next)
			if got["status"] != tt.status || got["bytes"] != tt.bytes {
				t.Errorf("status, bytes = %v, %v; want %v, %v", got["status"], got["bytes"], tt.status, tt.bytes)
			}
		})
	}
}

// Over a real connection: the client hangs up in the middle of a body.
func TestClientGoneInTheBodyIs499(t *testing.T) {
	t.Parallel()
	log, out, _ := newLog()
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		log.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			chunk := make([]byte, 64<<10)
			for {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		})).ServeHTTP(w, r)
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	<-ended
	if got := out.requests(t); len(got) != 1 || got[0]["status"] != 499.0 {
		t.Errorf("lines = %v, want one of status 499", got)
	}
}

func TestPanicBeforeTheAnswerIs500(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
	r.Header.Set("X-Request-Id", "id-1")
	got, w := serve(t, r, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Content-Digest", "sha256:half")
		panic("impossible\nstate")
	})
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || len(doc.Errors) != 1 {
		t.Fatalf("body %q is no error document (%v)", w.Body, err)
	}
	if w.Code != 500 || !strings.Contains(doc.Errors[0].Message, "id-1") || strings.Contains(w.Body.String(), "impossible") {
		t.Errorf("answer = %d %s, want 500 with the request's id and without the reason", w.Code, w.Body)
	}
	if w.Header().Get("Docker-Content-Digest") != "" {
		t.Error("a header of the broken answer was sent")
	}
	if got["status"] != 500.0 || !strings.Contains(got["err"].(string), "impossible") {
		t.Errorf("line = %v, want 500 and the reason", got)
	}
}

func TestPanicIsLoggedWithItsStack(t *testing.T) {
	t.Parallel()
	log, out, _ := newLog()
	log.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panicking() })).
		ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	if !strings.Contains(out.String(), `"level":"ERROR"`) || !strings.Contains(out.String(), "accesslog.panicking") {
		t.Errorf("log has no error with the stack: %s", out)
	}
}

func panicking() { panic(errors.New("broken")) }

// A response whose head is out cannot become a 500: the connection is cut, and the next request is served.
func TestPanicInTheBodyCutsTheConnection(t *testing.T) {
	t.Parallel()
	for name, reason := range map[string]any{"abort": http.ErrAbortHandler, "other": "impossible"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log, out, _ := newLog()
			server := httptest.NewUnstartedServer(log.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/next" {
					return
				}
				_, _ = io.WriteString(w, "half")
				_ = http.NewResponseController(w).Flush()
				panic(reason)
			})))
			server.Start()
			defer server.Close()
			resp, err := http.Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err == nil {
				t.Errorf("body %q ended cleanly, want a cut connection", body)
			}
			resp, err = http.Get(server.URL + "/next")
			if err != nil {
				t.Fatalf("the process did not live on: %v", err)
			}
			_ = resp.Body.Close()
			server.Close() // waits for the handlers
			if got := out.requests(t); len(got) != 2 || got[0]["bytes"] != 4.0 {
				t.Errorf("lines = %v, want two, the first of 4 bytes", got)
			}
		})
	}
}

func TestUpgradeHijacks(t *testing.T) {
	t.Parallel()
	log, out, _ := newLog()
	server := httptest.NewServer(log.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijack: %v", err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		From(r.Context()).Bytes = 7
	})))
	defer server.Close()
	resp, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	server.Close()
	if got := out.requests(t); len(got) != 1 || got[0]["status"] != 101.0 || got[0]["bytes"] != 7.0 {
		t.Errorf("lines = %v, want one of status 101 and 7 bytes", got)
	}
}

func TestNoReadFrom(t *testing.T) {
	t.Parallel()
	var w any = &responseWriter{}
	if _, ok := w.(io.ReaderFrom); ok {
		t.Error("the writer has ReadFrom: io.Copy would choose 32 KiB steps for bodies")
	}
}

func TestEmitOfATunnel(t *testing.T) {
	t.Parallel()
	log, out, reg := newLog()
	rec := NewRecord(httptest.NewRequest(http.MethodConnect, "//example.com:443", nil))
	rec.Time = time.Now().Add(-time.Minute)
	rec.Kind, rec.Registry, rec.Status, rec.Bytes = KindTunnel, "example.com:443", 200, 5000
	log.Emit(t.Context(), rec)
	if got := out.requests(t)[0]; got["dur"].(float64) < float64(time.Minute) || got["kind"] != "tunnel" || got["bytes"] != 5000.0 {
		t.Errorf("line = %v, want a tunnel of a minute and 5000 bytes", got)
	}
	if got := series(t, reg)["requests_total"]; len(got) != 1 {
		t.Errorf("series of requests_total = %v, want 1", got)
	}
	var none *Log
	none.Emit(t.Context(), rec) // writes nothing, fails nothing
}

func TestFromWithoutARecord(t *testing.T) {
	t.Parallel()
	rec := From(t.Context())
	if rec == nil {
		t.Fatal("From = nil, want a scratch record")
	}
	rec.Outcome = "hit"
	if From(t.Context()).Outcome != "" {
		t.Error("the scratch record is shared")
	}
}

func TestNilLogStillRecovers(t *testing.T) {
	t.Parallel()
	var log *Log
	w := httptest.NewRecorder()
	log.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("broken") })).
		ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != 500 {
		t.Errorf("status = %d, want 500", w.Code)
	}
}
