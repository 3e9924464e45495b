package app_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// brief is a time-out that these tests wait for. Where the default, a minute, was at work they would lose patience.
const brief = "300ms"

// secure speaks TLS over a bare connection to an intercepted registry.
func (h *house) secure(authority string) wire {
	h.t.Helper()
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		h.t.Fatal(err)
	}
	below := h.tunnel(authority)
	conn := tls.Client(below, &tls.Config{ServerName: host, RootCAs: h.trusted})
	if err := conn.HandshakeContext(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	return newWire(conn)
}

// write sends text on a bare connection.
func (w wire) write(t testing.TB, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

// response reads one whole response.
func (w wire) response(t testing.TB, method string) answer {
	t.Helper()
	resp, err := http.ReadResponse(w.Reader, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("read response: %v", err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, proto: resp.ProtoMajor, last: resp.Close}
	a.body, a.cut = registrytest.ReadBody(resp)
	return a
}

// wantEnd waits for the other side to close, which it does before our patience ends.
func (w wire) wantEnd(t testing.TB) {
	t.Helper()
	_, err := io.Copy(io.Discard, w.Reader)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		t.Errorf("the connection is still open after %v", patience)
	}
}

// effectSendTimeout: a client that takes nothing is cut, one that takes its time is not.
func effectSendTimeout(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	blob := registrytest.Bytes(1, 12<<20) // more than fits into the buffers of both kernels
	digest := reg.PutBlob("app", blob)
	h := start(t, reg.World, "REGISTRIES="+reg.Host(), "SEND_TIMEOUT=5s")
	begin := func() *http.Response {
		w := h.secure(reg.Host())
		_ = w.Conn.(*tls.Conn).NetConn().(wire).Conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		w.write(t, fmt.Sprintf("GET /v2/app/blobs/%s HTTP/1.1\r\nHost: %s\r\n\r\n", digest, reg.Host()))
		resp, err := http.ReadResponse(w.Reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	stuck, slow := begin(), begin()
	var got bytes.Buffer
	for range 60 {
		if _, err := io.CopyN(&got, slow.Body, int64(len(blob)/61)); err != nil {
			t.Fatalf("a client that takes its time was cut after %d bytes: %v", got.Len(), err)
		}
		time.Sleep(100 * time.Millisecond) // the pace of a client; six seconds in all
	}
	if _, err := io.Copy(&got, slow.Body); err != nil || !bytes.Equal(got.Bytes(), blob) {
		t.Errorf("a client that takes its time got %d bytes, %v, want all %d", got.Len(), err, len(blob))
	}
	h.log.await(t, func(l line) bool { return l.Kind == "blob" && l.Status == 499 && l.Bytes < int64(len(blob)) })
	if n, err := io.Copy(io.Discard, stuck.Body); err == nil {
		t.Errorf("a client that took nothing still got a whole body of %d bytes", n)
	}
}

// effectClientBodyTimeout: a push that stops half-way is given up; by default it may go on.
func effectClientBodyTimeout(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	blob := registrytest.Bytes(1, 1000)
	begin := func(environ ...string) wire {
		w := start(t, reg.World, append(environ, "REGISTRIES="+reg.Host(), "ALLOW_PUSH=true")...).secure(reg.Host())
		w.write(t, fmt.Sprintf("POST /v2/app/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000\r\n\r\n%s", oci.FromBytes(blob), reg.Host(), blob[:500]))
		return w
	}
	patient := begin()
	begin("CLIENT_BODY_TIMEOUT=" + brief).wantEnd(t)
	if n := reg.Count("POST", ""); n != 0 {
		t.Errorf("the registry saw %d pushes of half a body", n)
	}
	patient.write(t, string(blob[500:]))
	patient.response(t, "POST").expect(t, 201)
}

// effectClientHeaderTimeout: half a request, to ourselves and to a registry.
func effectClientHeaderTimeout(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	patient, hasty := start(t, reg.World, "REGISTRIES="+reg.Host()), start(t, reg.World, "REGISTRIES="+reg.Host(), "CLIENT_HEADER_TIMEOUT="+brief)
	const half, rest = "GET /v2/ HTTP/1.1\r\nHo", "st: "
	for _, open := range []func(h *house) wire{(*house).dial, func(h *house) wire { return h.secure(reg.Host()) }} {
		w := open(patient)
		w.write(t, half)
		cut := open(hasty)
		cut.write(t, half)
		cut.wantEnd(t)
		open(hasty).wantEnd(t) // says nothing at all
		w.write(t, rest+reg.Host()+"\r\n\r\n")
		w.response(t, "GET").expect(t, 200)
	}
}

// effectKeepAliveTimeout: how long a connection waits for the client's next request.
func effectKeepAliveTimeout(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	get := "GET /v2/ HTTP/1.1\r\nHost: " + reg.Host() + "\r\n\r\n"
	begin := func(environ ...string) (wire, answer) {
		w := start(t, reg.World, append(environ, "REGISTRIES="+reg.Host())...).secure(reg.Host())
		w.write(t, get)
		return w, w.response(t, "GET").expect(t, 200)
	}
	patient, a := begin()
	if a.last {
		t.Error("by default a connection ends after one request")
	}
	w, a := begin("KEEPALIVE_TIMEOUT=0")
	if w.wantEnd(t); !a.last {
		t.Error("KEEPALIVE_TIMEOUT=0 does not say that it closes")
	}
	w, _ = begin("KEEPALIVE_TIMEOUT=" + brief)
	w.wantEnd(t)
	patient.write(t, get)
	patient.response(t, "GET").expect(t, 200)
}

// effectProxyReadTimeout: a registry that says nothing is given up with a clear error, one that falls silent in the middle
// of a blob is asked for the rest.
func effectProxyReadTimeout(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	h := start(t, reg.World, "REGISTRIES="+reg.Host(), "PROXY_READ_TIMEOUT="+brief)
	img := reg.PushImage("app", "1", layers(1, 1, 500_000)...)
	reg.Set(func(f *registrytest.Faults) { f.Registry.Hang = true })
	a := h.ask("GET", reg.URL()+"/v2/app/manifests/1")
	if a.status != 503 && a.status != 504 || !strings.Contains(string(a.body), "UNAVAILABLE") {
		t.Errorf("a registry that says nothing: %d %q, want 503 or 504 UNAVAILABLE", a.status, a.body)
	}
	reg.Set(func(f *registrytest.Faults) {
		f.Registry.Hang = false
		f.Body = registrytest.Body{StallAfter: 200_000} // each answer that is larger
	})
	h.pull(reg, "app", "1")
	asked := reg.Find(func(r registrytest.Request) bool {
		return r.Method == "GET" && strings.Contains(r.Path, string(img.Layers[0].Digest))
	})
	if len(asked) < 2 || asked[0].Range() != "" {
		t.Fatalf("a blob that stalls was asked for by %+v, want further requests for the rest", asked)
	}
	for _, r := range asked[1:] {
		if !strings.HasPrefix(r.Range(), "bytes=") || strings.HasPrefix(r.Range(), "bytes=0") {
			t.Errorf("a blob that stalls was asked for with the range %q, want the rest alone", r.Range())
		}
	}
}

// blackHole is an address that never answers a connect: its queue of connections is full.
func blackHole(t *testing.T) netip.AddrPort {
	t.Helper()
	return blackHoleAt(t, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 79, 0, 1}), 0))
}

// blackHoleAt is one at an address, and a port unless that is 0.
func blackHoleAt(t *testing.T, at netip.AddrPort) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at = netip.AddrPortFrom(at.Addr(), uint16(name.(*syscall.SockaddrInet4).Port))
	for range 16 {
		conn, err := net.DialTimeout("tcp", at.String(), 500*time.Millisecond)
		if err != nil {
			return at
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatal("a queue of length 0 takes every connection")
	return at
}

func effectProxyConnectTimeout(t *testing.T) {
	hole := blackHole(t)
	h := start(t, registrytest.NewWorld(t), "REGISTRIES="+hole.String(), "PROXY_CONNECT_TIMEOUT="+brief)
	h.ask("GET", "https://"+hole.String()+"/v2/app/manifests/1").expect(t, 504, "UNAVAILABLE", hole.String(), "no answer in time")
}

func effectTunnelConnectTimeout(t *testing.T) {
	h := start(t, registrytest.NewWorld(t), "PROXY_CONNECT_CONNECT_TIMEOUT="+brief)
	_, a := h.connect(blackHole(t).String())
	a.expect(t, 504, "no answer in time")
}

// effectProxySendTimeout: a registry that does not read what is pushed.
func effectProxySendTimeout(t *testing.T) {
	world := registrytest.NewWorld(t)
	done := make(chan struct{})
	deaf := world.Site("deaf.test", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-done }))
	t.Cleanup(func() { close(done) })
	h := start(t, world, "REGISTRIES="+deaf, "ALLOW_PUSH=true", "PROXY_REQUEST_BUFFERING=false", "PROXY_SEND_TIMEOUT="+brief)
	req := request(t, "POST", "https://"+deaf+"/v2/app/blobs/uploads/", bytes.NewReader(make([]byte, 24<<20)))
	if a, err := do(h.http, req); err == nil && a.status < 500 { // it may be cut while it still sends
		t.Errorf("a push to a registry that takes nothing = %d", a.status)
	}
	h.log.await(t, func(l line) bool { return l.Kind == "upload" && l.Status >= 499 })
}

// echo is a server that sends back what it gets, and returns its address.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.77.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// effectTunnelReadTimeout: a tunnel in which nothing moves is closed; by default it may rest for longer.
func effectTunnelReadTimeout(t *testing.T) {
	world, address := registrytest.NewWorld(t), echo(t)
	say := func(w wire) {
		w.write(t, "hello\n")
		if got, err := w.ReadString('\n'); got != "hello\n" {
			t.Fatalf("the echo said %q, %v", got, err)
		}
	}
	patient, hasty := start(t, world).tunnel(address), start(t, world, "PROXY_CONNECT_READ_TIMEOUT="+brief)
	say(patient)
	w := hasty.tunnel(address)
	say(w)
	w.wantEnd(t)
	hasty.log.await(t, func(l line) bool { return l.Kind == "tunnel" && strings.Contains(l.Err, "PROXY_CONNECT_READ_TIMEOUT") })
	say(patient)
}

// effectTunnelSendTimeout: a far end that takes nothing.
func effectTunnelSendTimeout(t *testing.T) {
	world := registrytest.NewWorld(t)
	l, err := net.Listen("tcp", "127.77.0.3:0") // accepts, in its kernel, and never reads
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	h := start(t, world, "PROXY_CONNECT_SEND_TIMEOUT="+brief, "PROXY_CONNECT_READ_TIMEOUT=4s")
	w := h.tunnel(l.Addr().String())
	if _, err := w.Write(make([]byte, 64<<20)); err == nil {
		t.Error("64 MiB went to somebody who takes nothing")
	}
	h.log.await(t, func(l line) bool { return l.Kind == "tunnel" && strings.Contains(l.Err, "PROXY_CONNECT_SEND_TIMEOUT") })
}
