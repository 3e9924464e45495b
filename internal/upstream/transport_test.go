package upstream_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// short is a read time-out that tests can wait for.
const short = 300 * time.Millisecond

func TestEncodingIsNeitherAskedForNorDecoded(t *testing.T) {
	t.Parallel()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte("manifest"))
	z.Close()
	w := newWorld(t)
	reg := w.https("reg.test", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Encoding", "gzip")
		_, _ = rw.Write(zipped.Bytes())
	})
	_, body := get(t, w.client(), upstream.Request{Registry: registry(t, reg), Path: "/v2/x", Header: http.Header{"Accept-Encoding": {"gzip, zstd"}}})
	if body != zipped.String() {
		t.Errorf("body %q, want the bytes as they came", body)
	}
	if got := w.requests(reg)[0].header.Get("Accept-Encoding"); got != "identity" {
		t.Errorf("Accept-Encoding = %q, want identity", got)
	}
}

func TestHeadersThatTravel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := w.https("reg.test", say(""))
	header := http.Header{
		"Accept": {"a/b", "c/d"}, "X-Kept": {"1"}, "Connection": {"close, X-Listed"}, "X-Listed": {"1"}, "Te": {"trailers"}, "Upgrade": {"h2c"}, "Expect": {"100-continue"},
		"Proxy-Authorization": {canary}, "Authorization": {canary}, "Host": {"evil.test"}, "Content-Length": {"5"}, "Keep-Alive": {"1"}, "Proxy-Connection": {"x"}, "Transfer-Encoding": {"chunked"},
	}
	get(t, w.client(), upstream.Request{Registry: registry(t, reg), Path: "/v2/a%2Fb/x?n=1&last=a%2fb", Header: header})
	got := w.requests(reg)[0]
	if got.uri != "/v2/a%2Fb/x?n=1&last=a%2fb" {
		t.Errorf("path %s is not the one asked for", got.uri)
	}
	if fmt.Sprint(got.header) != "map[Accept:[a/b c/d] Accept-Encoding:[identity] User-Agent:[container-registry-proxy] X-Kept:[1]]" {
		t.Errorf("headers %v", got.header)
	}
	if len(header) != 14 || header.Get("Authorization") != canary {
		t.Errorf("the caller's header was changed to %v", header)
	}
}

func TestLargeHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	size := 0
	reg := w.https("reg.test", func(rw http.ResponseWriter, _ *http.Request) { rw.Header().Set("X-Large", strings.Repeat("x", size)) })
	c := w.client()
	size = 900 << 10
	get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/x"})
	size = 2 << 20
	if _, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"}); err == nil {
		t.Error("a header of 2 MiB was taken")
	}
}

func TestHeaderThatDoesNotCome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := w.https("reg.test", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c := w.client(func(c *upstream.Config) { c.ReadTimeout = short })
	start := time.Now()
	_, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"})
	if _, ok := errors.AsType[*upstream.UnreachableError](err); !ok || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("err = %v, want an UnreachableError", err)
	}
	if took := time.Since(start); took > 20*short {
		t.Errorf("took %v", took)
	}
	if n := len(w.requests(reg)); n != 1 {
		t.Errorf("%d requests, want 1: a time-out has waited enough", n)
	}
}

func TestBodyThatStalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := w.https("reg.test", func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "some")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	})
	c := w.client(func(c *upstream.Config) { c.ReadTimeout = short })
	for name, open := range map[string]func() (*http.Response, error){
		"Do": func() (*http.Response, error) {
			return c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"})
		},
		"Transport": func() (*http.Response, error) {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+reg+"/x", nil)
			return c.Transport().RoundTrip(req)
		},
	} {
		resp, err := open()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != "some" || err == nil || !strings.Contains(err.Error(), "no byte within the read time-out") {
			t.Errorf("%s: %q, %v, want what came and an error that says it stalled", name, body, err)
		}
	}
}

// A body that moves may take as long as it likes.
func TestSlowBodyArrives(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	w := newWorld(t)
	reg := w.https("reg.test", func(rw http.ResponseWriter, _ *http.Request) {
		for range 10 {
			_, _ = io.WriteString(rw, "x")
			_ = http.NewResponseController(rw).Flush()
			time.Sleep(timeout / 8) // the registry's pace, which is what is tested
		}
	})
	c := w.client(func(c *upstream.Config) { c.ReadTimeout = timeout })
	if _, body := get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/x"}); body != "xxxxxxxxxx" {
		t.Errorf("body %q, want all of it", body)
	}
}

// The time between two reads is the reader's own affair.
func TestSlowReaderIsNotCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := w.https("reg.test", say(strings.Repeat("x", 1<<20)))
	c := w.client(func(c *upstream.Config) { c.ReadTimeout = short })
	resp, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.ReadFull(resp.Body, make([]byte, 10))
	time.Sleep(2 * short) // longer than a read may take
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 1<<20-10 {
		t.Errorf("%d bytes, %v, want the rest", len(rest), err)
	}
}

func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := w.https("reg.test", func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "some")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	})
	gone := errors.New("client gone")
	ctx, leave := context.WithCancelCause(t.Context())
	resp, err := w.client().Do(ctx, upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.ReadFull(resp.Body, make([]byte, 4))
	leave(gone)
	_, err = io.ReadAll(resp.Body)
	if _, unreachable := errors.AsType[*upstream.UnreachableError](err); unreachable || !errors.Is(err, gone) {
		t.Errorf("body: %v, want the cause", err)
	}
	if _, err = w.client().Do(ctx, upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"}); !errors.Is(err, gone) {
		t.Errorf("next: %v, want the cause", err)
	}
}

// cut closes the first connections that bring a request, before any answer.
func cut(times int32) (http.HandlerFunc, *atomic.Int32) {
	var n atomic.Int32
	return func(rw http.ResponseWriter, _ *http.Request) {
		if n.Add(1) <= times {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(rw, "bytes")
	}, &n
}

func TestBrokenConnectionsAreTriedAgain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		method string
		cuts   int32
		ok     bool
		asked  int32
	}{
		{http.MethodGet, 2, true, 3}, {http.MethodHead, 1, true, 2}, {http.MethodGet, 100, false, 3}, {http.MethodDelete, 1, false, 1},
	} {
		w := newWorld(t)
		handler, n := cut(tt.cuts)
		reg := w.https("reg.test", handler)
		resp, err := w.client().Do(t.Context(), upstream.Request{Method: tt.method, Registry: registry(t, reg), Path: "/v2/x"})
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != tt.ok || n.Load() != tt.asked {
			t.Errorf("%s cut %d times: %v after %d requests, want %d", tt.method, tt.cuts, err, n.Load(), tt.asked)
		}
		if _, ok := errors.AsType[*upstream.UnreachableError](err); !tt.ok && !ok {
			t.Errorf("%s cut %d times: %v, want an UnreachableError", tt.method, tt.cuts, err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	closed := w.https("closed.test", say(""), func(s *httptest.Server) { s.Listener.Close() })
	_ = closed
	for name, tt := range map[string]struct{ registry, text string }{
		"no such name":             {"nowhere.example", "registry nowhere.example: name does not resolve"},
		"connection refused":       {closedPort(t), "connection refused"},
		"not TLS":                  {w.http("plain.test", say("")), "not a TLS server"},
		"a stranger's certificate": {newWorld(t).https("reg.test", say("")), "x509: certificate signed by unknown authority"},
		"another name's certificate": {w.https("reg.test", say(""), func(s *httptest.Server) {
			s.TLS.Certificates = []tls.Certificate{w.certificate("other.test", time.Now().Add(time.Hour))}
		}), "x509: certificate is not for reg.test"},
		"an expired certificate": {w.https("reg.test", say(""), func(s *httptest.Server) {
			s.TLS.Certificates = []tls.Certificate{w.certificate("reg.test", time.Now().Add(-time.Hour))}
		}), "x509: certificate has expired or is not yet valid"},
		"TLS 1.1":  {w.https("reg.test", say(""), func(s *httptest.Server) { s.TLS.MinVersion, s.TLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }), "TLS handshake failed"},
		"not HTTP": {rawTLS(t, w, "ssh-2.0 "+canary+"\r\n\r\n"), "no usable answer"},
	} {
		_, err := w.client().Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, tt.registry), Path: "/v2/x?sig=" + canary})
		unreachable, ok := errors.AsType[*upstream.UnreachableError](err)
		if !ok || unreachable.Registry != registry(t, tt.registry) || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v, want an UnreachableError that says %q", name, err, tt.text)
		}
	}
}

// closedPort is a port of loopback where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprintf("reg.test:%d", l.Addr().(*net.TCPAddr).Port)
}

// rawTLS is a site that answers every request with text.
func rawTLS(t *testing.T, w *world, text string) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{w.certificate("reg.test", time.Now().Add(time.Hour))}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, text)
			conn.Close()
		}
	}()
	return fmt.Sprintf("reg.test:%d", l.Addr().(*net.TCPAddr).Port)
}

// A registry named insecure is asked over any TLS, and so is what it redirects to, but only on its behalf.
func TestInsecureIsForTheNamedRegistry(t *testing.T) {
	t.Parallel()
	w, stranger := newWorld(t), newWorld(t)
	cdn := stranger.https("cdn.test", say("blob"))
	location := "https://" + cdn + "/x"
	reg := stranger.https("reg.test", redirect(http.StatusFound, &location))
	good := w.https("good.test", redirect(http.StatusFound, &location))
	c := w.client(func(c *upstream.Config) { c.Insecure = func(host string) bool { return host == "reg.test" } })
	if status, body := get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/x"}); status != 200 || body != "blob" {
		t.Errorf("%d %q, want the blob", status, body)
	}
	for name, authority := range map[string]string{"the redirect's target by itself": cdn, "another registry that redirects there": good} {
		_, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, authority), Path: "/v2/x"})
		if _, ok := errors.AsType[*upstream.UnreachableError](err); !ok || !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("%s: %v, want its certificate refused", name, err)
		}
	}
}

// Registries that offer both are spoken to in HTTP/1.1, those that insist in HTTP/2, unless that is forbidden.
func TestHTTPVersions(t *testing.T) {
	t.Parallel()
	both := func(s *httptest.Server) { s.EnableHTTP2 = true }
	only426 := func(rw http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor < 2 {
			rw.WriteHeader(http.StatusUpgradeRequired)
			return
		}
		_, _ = io.WriteString(rw, "bytes")
	}
	refuse := func(s *httptest.Server) {
		s.EnableHTTP2 = true
		s.TLS.NextProtos = []string{"h2"}
		s.TLS.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			config := s.TLS.Clone()
			config.GetConfigForClient = nil
			if len(hello.SupportedProtos) == 0 || hello.SupportedProtos[0] != "h2" {
				config.NextProtos = []string{"only-this"} // what the client offers is none of it: no_application_protocol
			}
			return config, nil
		}
	}
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		change  func(*httptest.Server)
		force   bool
		status  int // 0: no answer
		protos  []string
	}{
		{"both are offered", say("bytes"), both, false, 200, []string{"HTTP/1.1", "HTTP/1.1"}},
		{"426", only426, both, false, 200, []string{"HTTP/1.1", "HTTP/2.0", "HTTP/2.0"}},
		{"426 where HTTP/2 is forbidden", only426, both, true, 426, []string{"HTTP/1.1", "HTTP/1.1"}},
		{"no protocol in common", say("bytes"), refuse, false, 200, []string{"HTTP/2.0", "HTTP/2.0"}},
		{"no protocol in common where HTTP/2 is forbidden", say("bytes"), refuse, true, 0, nil},
	} {
		w := newWorld(t)
		reg := w.https("reg.test", tt.handler, tt.change)
		c := w.client(func(c *upstream.Config) { c.ForceHTTP11 = tt.force })
		for range 2 {
			resp, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"})
			if err != nil {
				if tt.status != 0 {
					t.Errorf("%s: %v", tt.name, err)
				}
				continue
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Errorf("%s: status %d, want %d", tt.name, resp.StatusCode, tt.status)
			}
		}
		var protos []string
		for _, s := range w.requests(reg) {
			protos = append(protos, s.proto)
		}
		if fmt.Sprint(protos) != fmt.Sprint(tt.protos) {
			t.Errorf("%s: spoke %v, want %v", tt.name, protos, tt.protos)
		}
	}
}

// Frames of HTTP/2 in answer to a request in HTTP/1.1 show a registry that speaks nothing else.
func TestServerWithoutALPNThatSpeaksHTTP2(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := rawTLS(t, w, "\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\x00\x04\x00\x10\x00\x00\x00\x06\x00\x04\x00\x00")
	_, err := w.client().Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"})
	if _, ok := errors.AsType[*upstream.UnreachableError](err); !ok {
		t.Errorf("err = %v, want an UnreachableError and no panic", err)
	}
}

// The process's own proxy settings might name us.
func TestProxyEnvironmentIsNotPickedUp(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://proxy.invalid:1")
	}
	w := newWorld(t)
	reg := w.https("reg.test", say("bytes"))
	if _, body := get(t, w.client(), upstream.Request{Registry: registry(t, reg), Path: "/v2/x"}); body != "bytes" {
		t.Errorf("body %q", body)
	}
	plain, err := oci.ParsePlainRegistry(w.http("plain.test", say("bytes")))
	if err != nil {
		t.Fatal(err)
	}
	if _, body := get(t, w.client(), upstream.Request{Registry: plain, Path: "/v2/x"}); body != "bytes" {
		t.Errorf("body %q", body)
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var connections atomic.Int32
	location := "/v2/there"
	reg := w.https("reg.test", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/there" {
			_, _ = io.WriteString(rw, "bytes")
			return
		}
		redirect(http.StatusFound, &location)(rw, r)
	}, func(s *httptest.Server) {
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		}
	})
	c := w.client()
	for range 20 {
		get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/x"})
		get(t, c, upstream.Request{Method: http.MethodHead, Registry: registry(t, reg), Path: "/v2/x"})
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections for 40 requests and their redirects, want 1", n)
	}
}

func TestPassThroughDoesNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	location := "/elsewhere"
	reg := w.https("reg.test", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/secret" {
			rw.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		redirect(http.StatusFound, &location)(rw, r)
	})
	c := w.client(func(c *upstream.Config) { c.Entries = []auth.Entry{login(reg)} })
	for path, status := range map[string]int{"/secret": 401, "/moved": 302} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+reg+path, iotest.OneByteReader(strings.NewReader("grant_type=password")))
		resp, err := c.Transport().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: %d, want %d as it came", path, resp.StatusCode, status)
		}
	}
	for _, s := range w.requests(reg) {
		if s.header.Get("Authorization") != "" || s.header.Get("Accept-Encoding") != "" {
			t.Errorf("%s carried %v, want nothing of ours", s.uri, s.header)
		}
	}
}

func TestPassThroughUpgrades(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := w.https("reg.test", func(rw http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
	})
	c := w.client(func(c *upstream.Config) { c.ReadTimeout = short })
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+reg+"/socket", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := c.Transport().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		t.Fatalf("%d with a body of %T, want 101 and the connection", resp.StatusCode, resp.Body)
	}
	defer conn.Close()
	time.Sleep(2 * short) // an idle connection is nobody's stalled body
	got := make([]byte, 5)
	_, _ = io.WriteString(conn, "hello")
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("echo %q, %v", got, err)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cdn := w.https("cdn.test", say("blob"))
	location := "https://" + cdn + "/x"
	reg := w.https("reg.test", redirect(http.StatusFound, &location))
	metrics := prometheus.NewRegistry()
	c := w.client(func(c *upstream.Config) {
		c.Registerer = metrics
		c.Registries = func(r oci.Registry) string {
			if r == registry(t, reg) {
				return "reg"
			}
			return "other"
		}
	})
	get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/x"})
	_, _ = c.Do(t.Context(), upstream.Request{Method: http.MethodHead, Registry: "nowhere.example", Path: "/v2/x"})
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, family := range families {
		for _, m := range family.GetMetric() {
			line := family.GetName()
			for _, label := range m.GetLabel() {
				line += " " + label.GetValue()
			}
			got = append(got, fmt.Sprint(line, " ", m.GetCounter().GetValue()))
		}
	}
	want := []string{
		"upstream_received_bytes_total other 0", "upstream_received_bytes_total reg 4",
		"upstream_requests_total get reg 2xx 1", "upstream_requests_total get reg 3xx 1", "upstream_requests_total head other error 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}
