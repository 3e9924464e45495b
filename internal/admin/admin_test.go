package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func ask(t *testing.T, h http.Handler, method, host, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, "http://"+host+path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestPaths(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "pulls_total", Help: "Pulls."})
	counter.Inc()
	reg.MustRegister(counter)
	h := New(Config{Gatherer: reg, Listen: "127.0.0.1:3129"})
	for _, tt := range []struct {
		path, want string
		status     int
	}{
		{"/metrics", "pulls_total 1", 200},
		{"/healthz", `{"status":"ok"}`, 200},
		{"/readyz", `{"status":"ok"}`, 200},
		{"/debug/pprof/", "goroutine", 200},
		{"/debug/pprof/goroutine?debug=1", "goroutine profile", 200},
		{"/", "", 404},
		{"/metrics/", "", 404},
		{"/debug", "", 404},
		{"/ca.crt", "", 404},
		{"/v2/", "", 404},
	} {
		w := ask(t, h, http.MethodGet, "127.0.0.1:3129", tt.path)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("GET %s = %d %.200q, want %d with %q", tt.path, w.Code, w.Body, tt.status, tt.want)
		}
		if got := w.Header().Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("GET %s: X-Content-Type-Options = %q, want nosniff", tt.path, got)
		}
	}
}

// What goes without its cache still serves its clients: to take it out of service would help nobody.
func TestDegradedIsReady(t *testing.T) {
	t.Parallel()
	reason := "no space left on device"
	h := New(Config{Degraded: func() string { return reason }})
	for _, want := range []string{`{"status":"degraded","reason":"no space left on device"}`, `{"status":"ok"}`} {
		if w := ask(t, h, http.MethodGet, "localhost:3129", "/readyz"); w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("GET /readyz = %d %s, want 200 %s", w.Code, w.Body, want)
		}
		reason = ""
	}
}

func TestNotReadySaysWhy(t *testing.T) {
	t.Parallel()
	h := New(Config{Ready: func() error { return errors.New(`disk "full"`) }})
	w := ask(t, h, http.MethodGet, "localhost:3129", "/readyz")
	var state struct{ Status, Reason string }
	if err := json.Unmarshal(w.Body.Bytes(), &state); err != nil {
		t.Fatalf("%q is no JSON: %v", w.Body, err)
	}
	if w.Code != http.StatusServiceUnavailable || state.Reason != `disk "full"` {
		t.Errorf("GET /readyz = %d %+v, want 503 with the reason", w.Code, state)
	}
	if w := ask(t, h, http.MethodGet, "localhost:3129", "/healthz"); w.Code != http.StatusOK {
		t.Errorf("GET /healthz = %d while not ready, want 200: the process lives", w.Code)
	}
}

// A browser sends the name that a page came from. Only names and addresses that are the operator's are answered.
func TestHosts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		listen, host string
		want         int
	}{
		{"127.0.0.1:3129", "127.0.0.1:3129", 200},
		{"127.0.0.1:3129", "127.0.0.1", 200},
		{"127.0.0.1:3129", "localhost:3129", 200},
		{"127.0.0.1:3129", "LOCALHOST.:3129", 200},
		{"127.0.0.1:3129", "[::1]:3129", 200},
		{"127.0.0.1:3129", "ops.example.com:3129", 200},
		{"127.0.0.1:3129", "evil.example.com:3129", 403},
		{"127.0.0.1:3129", "127.0.0.1.evil.example.com:3129", 403},
		{"127.0.0.1:3129", "localhost.evil.example.com", 403},
		{"127.0.0.1:3129", "192.0.2.1:3129", 403},
		{"192.0.2.1:3129", "192.0.2.1:3129", 200},
		{":3129", "192.0.2.1:3129", 200},
		{"0.0.0.0:3129", "192.0.2.1:3129", 200},
		{"[::]:3129", "[2001:db8::1]:3129", 200},
		{":3129", "evil.example.com:3129", 403},
		{"", "evil.example.com", 403},
	} {
		h := New(Config{Listen: tt.listen, Hosts: []string{"ops.example.com"}})
		if w := ask(t, h, http.MethodGet, tt.host, "/metrics"); w.Code != tt.want {
			t.Errorf("listening on %q: Host %q = %d, want %d", tt.listen, tt.host, w.Code, tt.want)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Host = ""
	w := httptest.NewRecorder()
	New(Config{Listen: ":3129"}).ServeHTTP(w, r)
	if w.Code != http.StatusForbidden {
		t.Errorf("no Host = %d, want 403", w.Code)
	}
}

func TestForeignPagesChangeNothing(t *testing.T) {
	t.Parallel()
	h := New(Config{Listen: "127.0.0.1:3129"})
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Origin", "http://evil.example.com"},
	} {
		if w := ask(t, h, http.MethodPost, "127.0.0.1:3129", "/metrics", header...); w.Code != http.StatusForbidden {
			t.Errorf("POST with %s = %d, want 403", header, w.Code)
		}
	}
	if w := ask(t, h, http.MethodPost, "127.0.0.1:3129", "/metrics"); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /metrics = %d, want 405", w.Code)
	}
}
