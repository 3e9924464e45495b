package app_test

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"sync"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// parent is a proxy that ours goes through: over HTTP with CONNECT and absolute addresses, or SOCKS5. It wants a login
// where it has one, looks names up in a world, and remembers what it was asked for.
type parent struct {
	world   *registrytest.World
	address string
	login   string // "user:password"

	mu     sync.Mutex // guards the fields that follow
	asked  []string   // authorities
	logins []string
}

func (p *parent) note(authority, login string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.logins = append(p.asked, authority), append(p.logins, login)
}

// reached reports whether it was asked for a connection to authority.
func (p *parent) reached(authority string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.asked, authority)
}

func listenLocally(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// httpParent is one that speaks HTTP.
func httpParent(t testing.TB, world *registrytest.World, login string) *parent {
	t.Helper()
	l := listenLocally(t)
	p := &parent{world: world, address: l.Addr().String(), login: login}
	server := &http.Server{Handler: p}
	t.Cleanup(func() { _ = server.Close() })
	go func() { _ = server.Serve(l) }() // until it is closed
	return p
}

func (p *parent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
	p.note(r.Host, user+":"+password)
	if p.login != "" && user+":"+password != p.login {
		w.Header().Set("Proxy-Authenticate", "Basic realm=parent")
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if r.Method != http.MethodConnect {
		(&httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo), Transport: p.world.Client().Transport}).ServeHTTP(w, r)
		return
	}
	far, err := p.world.Dial(r.Context(), "tcp", r.Host)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	near, _, err := http.NewResponseController(w).Hijack() // before the 200: what follows it is not the server's to read
	if err != nil {
		_ = far.Close()
		return
	}
	_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
	join(near, far)
}

// join copies both ways until one of them ends.
func join(a, b net.Conn) {
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() { // ends when either connection is closed below
			_, _ = io.Copy(way[0], way[1])
			done <- struct{}{}
		}()
	}
	<-done
	_, _ = a.Close(), b.Close()
}

// socksParent speaks SOCKS5 (RFC 1928), without a login.
func socksParent(t testing.TB, world *registrytest.World) *parent {
	t.Helper()
	l := listenLocally(t)
	p := &parent{world: world, address: l.Addr().String()}
	go func() { // until the listener is closed
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.serveSOCKS(t, conn)
		}
	}()
	return p
}

func (p *parent) serveSOCKS(t testing.TB, conn net.Conn) {
	defer conn.Close()
	read := func(n int) []byte {
		b := make([]byte, n)
		_, _ = io.ReadFull(conn, b)
		return b
	}
	_ = read(int(read(2)[1])) // the methods it offers
	_, _ = conn.Write([]byte{5, 0})
	if head := read(4); head[3] != 3 {
		return // names alone: nobody but the parent looks them up
	}
	host := string(read(int(read(1)[0])))
	authority := net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(read(2)))))
	p.note(authority, "")
	far, err := p.world.Dial(t.Context(), "tcp", authority)
	if err != nil {
		return
	}
	_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	join(conn, far)
}
