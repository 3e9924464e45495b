package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
)

// fakeProxy is what the show needs of a proxy, and no more. The real one is shown by the command's own test.
type fakeProxy struct {
	certificate tls.Certificate
	upstream    *http.Client
	keep        bool

	mu   sync.Mutex // guards kept
	kept map[string][]byte
}

// start is a Config's Start; a proxy that does not keep what it fetches is a bad one.
func start(t *testing.T, keep bool, settings *[]string) func(context.Context, []string) (string, func() error, error) {
	return func(ctx context.Context, environ []string) (string, func() error, error) {
		*settings = environ
		certificate, err := newCertificate()
		if err != nil {
			return "", nil, err
		}
		roots, err := os.ReadFile(setting(environ, "UPSTREAM_CA_FILE"))
		if err != nil {
			return "", nil, err
		}
		trusted, err := pool(roots)
		if err != nil {
			return "", nil, err
		}
		p := &fakeProxy{
			certificate: certificate, keep: keep, kept: map[string][]byte{},
			upstream: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: trusted}}},
		}
		server := httptest.NewServer(p)
		t.Cleanup(server.Close)
		return strings.TrimPrefix(server.URL, "http://"), func() error {
			<-ctx.Done()
			server.Close()
			return nil
		}, nil
	}
}

func setting(environ []string, name string) string {
	for _, line := range environ {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return value
		}
	}
	return ""
}

func (p *fakeProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: p.certificate.Certificate[0]})
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	inner := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{p.certificate}})
	req, err := http.ReadRequest(bufio.NewReader(inner))
	if err != nil {
		return
	}
	body, outcome := p.answer("https://" + r.Host + req.URL.Path)
	_, _ = fmt.Fprintf(inner, "HTTP/1.1 200 OK\r\nX-Cache: %s\r\nContent-Length: %d\r\n\r\n%s", outcome, len(body), body)
	_ = inner.Close()
}

func (p *fakeProxy) answer(address string) (body []byte, outcome string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if body, ok := p.kept[address]; ok {
		return body, "HIT"
	}
	resp, err := p.upstream.Get(address)
	if err != nil {
		return nil, "MISS"
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err == nil && p.keep {
		p.kept[address] = body
	}
	return body, "MISS"
}

func TestShow(t *testing.T) {
	t.Parallel()
	var settings []string
	var out bytes.Buffer
	err := Run(t.Context(), Config{Start: start(t, true, &settings), Out: &out, Layers: []int64{1000, 100_000}, Rate: 1 << 30})
	if err != nil {
		t.Fatalf("%v:\n%s", err, &out)
	}
	first, second, _ := strings.Cut(out.String(), "\npull 2 of ")
	layers, _, _ := strings.Cut(second, "answered by the cache")
	if strings.Count(first, "MISS") != 2 || strings.Contains(first, "HIT") || strings.Count(layers, "HIT") != 2 {
		t.Errorf("want two MISS, then two HIT:\n%s", &out)
	}
	if _, err := os.Stat(setting(settings, "UPSTREAM_CA_FILE")); !os.IsNotExist(err) {
		t.Errorf("something is left behind: %v", err)
	}
}

// The show is no trick: a proxy that asks the registry again fails it.
func TestShowOfABadProxyFails(t *testing.T) {
	t.Parallel()
	var settings []string
	err := Run(t.Context(), Config{Start: start(t, false, &settings), Layers: []int64{1000}, Rate: 1 << 30})
	if err == nil || !strings.Contains(err.Error(), "want HIT") {
		t.Errorf("err = %v, want a complaint", err)
	}
}

func TestShowThatIsStoppedCleansUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var settings []string
	begin := start(t, true, &settings)
	err := Run(ctx, Config{Layers: []int64{1 << 20}, Rate: 10_000, Start: func(running context.Context, environ []string) (string, func() error, error) {
		defer cancel()
		return begin(running, environ)
	}})
	if err == nil {
		t.Error("no error of a show that was stopped")
	}
	if _, err := os.Stat(setting(settings, "UPSTREAM_CA_FILE")); !os.IsNotExist(err) {
		t.Errorf("something is left behind: %v", err)
	}
}
