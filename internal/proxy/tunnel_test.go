package proxy_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/proxy"
)

// farEnd listens and hands its first connection to serve.
func farEnd(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute)) // a bound on a test that hangs
		serve(c.(*net.TCPConn))
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func TestTunnelCarriesBytesBothWays(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, nil)
	sent := make([]byte, 5<<20)
	_, _ = rand.Read(sent)
	// The far end answers only when it has seen our end: half-close has to arrive, and must not end the other half.
	authority := farEnd(t, func(c *net.TCPConn) {
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("far end got %d bytes, %v, want the %d that were sent", len(got), err, len(sent))
		}
		_, _ = c.Write(got)
	})
	conn, br := h.connect(authority)
	if _, err := conn.Write(sent); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	got, err := io.ReadAll(br)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("client got %d bytes back, %v, want %d", len(got), err, len(sent))
	}
}

// What comes in one packet with the CONNECT belongs to the far end.
func TestTunnelSendsWhatCameEarly(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, nil)
	authority := farEnd(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	conn := h.dialProxy()
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\nearly", authority, authority)
	_ = conn.CloseWrite()
	got, _ := io.ReadAll(conn)
	if !strings.HasSuffix(string(got), "\r\n\r\nearly") {
		t.Errorf("client got %q, want what it sent early", got)
	}
}

func TestIdleTunnelEnds(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, func(cfg *proxy.Config) { cfg.Timeouts.TunnelRead = 200 * time.Millisecond })
	authority := farEnd(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	_, br := h.connect(authority)
	if _, err := br.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an idle tunnel: %v, want its end", err)
	}
}

// A download keeps a tunnel open although its client says nothing.
func TestTunnelIsNotIdleWhileOneDirectionMoves(t *testing.T) {
	t.Parallel()
	const idle = 2 * time.Second
	h := newHouse(t, echo, func(cfg *proxy.Config) { cfg.Timeouts.TunnelRead = idle })
	const words = 12 // half as long again as idle
	authority := farEnd(t, func(c *net.TCPConn) {
		for range words {
			_, _ = io.WriteString(c, "word ")
			time.Sleep(idle / 8)
		}
	})
	_, br := h.connect(authority)
	got, _ := io.ReadAll(br)
	if want := strings.Repeat("word ", words); string(got) != want {
		t.Errorf("client got %q, want %d words", got, words)
	}
}

func TestTunnelRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, nil)
	for _, tc := range []struct {
		authority string
		status    int
		want      string
	}{
		{"refused.test:443", http.StatusForbidden, "ALLOWED_NETWORKS"},
		{"127.0.0.1:1", http.StatusBadGateway, "connection failed"},
	} {
		conn := h.dialProxy()
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", tc.authority, tc.authority)
		got, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(got), fmt.Sprintf("HTTP/1.1 %d ", tc.status)) || !strings.Contains(string(got), tc.want) {
			t.Errorf("CONNECT %s is answered %q, want %d with %q", tc.authority, got, tc.status, tc.want)
		}
		if log := h.log.String(); !strings.Contains(log, tc.authority) || !strings.Contains(log, tc.want) {
			t.Errorf("the log does not say that CONNECT %s was refused, and why:\n%s", tc.authority, log)
		}
	}
}

func TestShutdownLetsWhatRunsFinish(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	reached := make(chan struct{}, 1)
	h := newHouse(t, echo, func(cfg *proxy.Config) {
		cfg.Registry = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			reached <- struct{}{}
			<-release
			fmt.Fprint(w, "whole")
		})
	})
	tunnelled := make(chan struct{})
	authority := farEnd(t, func(c *net.TCPConn) { <-tunnelled; _, _ = io.WriteString(c, "bye") })
	conn, br := h.connect(authority)
	type answer struct {
		status int
		body   string
	}
	pulled := make(chan answer, 1)
	go func() {
		status, body := h.ask(h.client(), "GET", "https://registry.test/v2/", nil, nil)
		pulled <- answer{status, body}
	}()
	<-reached
	stopped := make(chan error, 1)
	go func() { stopped <- h.proxy.Shutdown(context.Background()) }()
	for { // until it takes no more clients
		c, err := net.Dial("tcp", h.address)
		if err != nil {
			break
		}
		_ = c.Close()
	}
	select {
	case err := <-stopped:
		t.Fatalf("Shutdown returned %v while a pull and a tunnel were running", err)
	default:
	}
	close(release)
	close(tunnelled)
	if got := <-pulled; got.status != 200 || got.body != "whole" {
		t.Errorf("the running pull got %+v, want all of it", got)
	}
	if got, _ := io.ReadAll(br); string(got) != "bye" {
		t.Errorf("the running tunnel got %q, want all of it", got)
	}
	_ = conn.Close()
	if err := <-stopped; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, nil)
	authority := farEnd(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	_, br := h.connect(authority)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := h.proxy.Shutdown(ctx); err == nil {
		t.Error("Shutdown says that all has ended by itself")
	}
	if _, err := br.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the tunnel after the bound: %v, want its end", err)
	}
}
