package load

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// hello is a body, and the digest that it has.
const (
	hello       = "hello"
	helloDigest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
)

// world is a server behind a proxy. The server closes every third connection's answer with "Connection: close".
func world(t *testing.T) (target Target, connects *atomic.Int64) {
	t.Helper()
	var requests atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1)%3 == 0 {
			w.Header().Set("Connection", "close")
		}
		switch {
		case strings.HasSuffix(r.URL.Path, "absent"):
			http.NotFound(w, r)
		case strings.HasSuffix(r.URL.Path, "long"):
			_, _ = w.Write(make([]byte, 1<<20)) // the client may have left
		default:
			fmt.Fprint(w, hello+r.URL.RawQuery)
		}
	}))
	t.Cleanup(server.Close)
	connects = new(atomic.Int64)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connects.Add(1)
		far, err := net.Dial("tcp", r.Host)
		if err != nil || r.Method != http.MethodConnect {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			_ = far.Close()
			return
		}
		_, _ = io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n") // the client may have left
		go func() { _, _ = io.Copy(far, near); _ = far.Close() }()                 // ends with the connection
		_, _ = io.Copy(near, far)
		_ = near.Close()
	}))
	t.Cleanup(proxy.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return Target{
		Addr: strings.TrimPrefix(proxy.URL, "http://"), Host: strings.TrimPrefix(server.URL, "https://"), Connect: true,
		TLS: &tls.Config{RootCAs: roots, ServerName: "example.com"},
	}, connects
}

func TestGet(t *testing.T) {
	t.Parallel()
	target, connects := world(t)
	c, err := Dial(t.Context(), target, Options{ReceiveBuffer: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for i := range 7 {
		firsts := 0
		answer, err := c.Get(t.Context(), Request{Path: "/blobs/" + helloDigest, Hash: true, Keep: true, First: func() { firsts++ }})
		if err != nil {
			t.Fatal(err)
		}
		if string(answer.Body) != hello || answer.Bytes != 5 || firsts != 1 || answer.First > answer.Took {
			t.Errorf("get %d = %+v, first byte told %d times; want %q", i, answer, firsts, hello)
		}
	}
	if got := connects.Load(); got != 3 {
		t.Errorf("%d connections, want 3: the server closed two", got)
	}
	if _, err := c.Get(t.Context(), Request{Path: "/absent"}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("absent: err = %v, want the status", err)
	}
}

func TestWrongBytesAreAnError(t *testing.T) {
	t.Parallel()
	target, _ := world(t)
	target.Query = "?ns=else"
	c, err := Dial(t.Context(), target, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Get(t.Context(), Request{Path: "/blobs/" + helloDigest, Hash: true}); err == nil {
		t.Error("no error for a body with the query behind it")
	}
}

func TestPull(t *testing.T) {
	t.Parallel()
	target, _ := world(t)
	conns, err := DialAll(t.Context(), target, 3, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer CloseAll(conns)
	stats, err := Pull(t.Context(), conns, 20, func(int) Request { return Request{Path: "/long"} })
	if err != nil {
		t.Fatal(err)
	}
	if stats.Requests != 20 || stats.Bytes != 20<<20 || len(stats.Each) != 20 || stats.Each[0] <= 0 || stats.Took < stats.Each[0] {
		t.Errorf("stats = %d requests, %d bytes, fastest %s of %s", stats.Requests, stats.Bytes, stats.Each[0], stats.Took)
	}
	_, err = Pull(t.Context(), conns, 5, func(i int) Request {
		if i == 2 {
			return Request{Path: "/absent"}
		}
		return Request{Path: "/short"}
	})
	if err == nil {
		t.Error("one request of five fails: no error")
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	target, _ := world(t)
	c, err := Dial(t.Context(), target, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	began := time.Now()
	if _, err := c.Get(t.Context(), Request{Path: "/long", Rate: 4 << 20}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("1 MiB at 4 MiB/s took %s, want 200ms at least", took)
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	sorted := []time.Duration{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	for _, tt := range []struct {
		q    float64
		want time.Duration
	}{{0, 1}, {0.5, 6}, {0.99, 10}, {1, 10}} {
		if got := Quantile(sorted, tt.q); got != tt.want {
			t.Errorf("Quantile(%v) = %d, want %d", tt.q, got, tt.want)
		}
	}
	if got := Quantile(nil, 0.5); got != 0 {
		t.Errorf("Quantile of nothing = %d, want 0", got)
	}
}
