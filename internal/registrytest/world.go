package registrytest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
)

// World is an internet of its own on loopback: names, an address of 127.0.0.0/8 for each, and one authority that signs
// for all. Its zero value is of no use; [NewWorld] makes one. Safe for concurrent use.
type World struct {
	t    testing.TB
	ca   *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
	file string
	done chan struct{} // closed at the end of the test

	// mu guards addresses.
	mu        sync.Mutex
	addresses map[string]netip.AddrPort // by host name without a port
}

// NewWorld returns a world without any host. It ends with the test.
func NewWorld(t testing.TB) *World {
	t.Helper()
	w := &World{t: t, done: make(chan struct{}), addresses: map[string]netip.AddrPort{}}
	w.ca, w.key = w.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "registrytest authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(24 * time.Hour),
	})
	w.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.ca.Raw})
	w.file = filepath.Join(t.TempDir(), "registrytest-ca.crt")
	if err := os.WriteFile(w.file, w.pem, 0o644); err != nil {
		t.Fatalf("write the authority's certificate: %v", err)
	}
	t.Cleanup(func() { close(w.done) })
	return w
}

// CAFile is the path of the authority's certificate, PEM.
func (w *World) CAFile() string { return w.file }

// CAPEM is the authority's certificate, PEM.
func (w *World) CAPEM() []byte { return w.pem }

// Pool trusts this world's authority and no other.
func (w *World) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(w.ca)
	return pool
}

// HostMap is where each name is: "registry.test" → 127.8.1.2:40001.
func (w *World) HostMap() map[string]netip.AddrPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[string]netip.AddrPort, len(w.addresses))
	for name, at := range w.addresses {
		out[name] = at
	}
	return out
}

// HostsFile is a hosts(5) file with every name of this world, for a process that reads one.
func (w *World) HostsFile() string {
	text := "127.0.0.1 localhost\n"
	for name, at := range w.HostMap() {
		text += fmt.Sprintf("%s %s\n", at.Addr(), name)
	}
	return text
}

// LookupNetIP resolves the names of this world and no others, as a [net.Resolver] would.
func (w *World) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	w.mu.Lock()
	at, ok := w.addresses[oci.CanonicalHost(host)]
	w.mu.Unlock()
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []netip.Addr{at.Addr()}, nil
}

// Dial connects to a host of this world by its name, whatever dials it.
func (w *World) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if found, err := w.LookupNetIP(ctx, "ip", host); err == nil {
		host = found[0].String()
	}
	var d net.Dialer
	return d.DialContext(ctx, network, net.JoinHostPort(host, port))
}

// Client asks this world's hosts directly: the answer that a proxy's is compared with. It follows redirects as Go does.
func (w *World) Client() *http.Client {
	transport := &http.Transport{DialContext: w.Dial, TLSClientConfig: &tls.Config{RootCAs: w.Pool()}, DisableCompression: true}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Site adds a host with any handler, over TLS, and returns its authority, "name:port".
func (w *World) Site(name string, handler http.Handler) string {
	w.t.Helper()
	return w.serve(site{name: name, handler: handler})
}

// Reserve gives a name to an address and a port that are free, for a server that the test starts by itself.
func (w *World) Reserve(name string) netip.AddrPort {
	w.t.Helper()
	listener, err := listen(0)
	if err != nil {
		w.t.Fatalf("reserve an address for %s: %v", name, err)
	}
	_ = listener.Close()
	at := listener.Addr().(*net.TCPAddr).AddrPort()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addresses[name] = at
	return at
}

// Certificate signs a certificate for names and addresses of this world, valid until notAfter.
func (w *World) Certificate(notAfter time.Time, names ...string) tls.Certificate {
	template := &x509.Certificate{NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	cert, key := w.sign(template)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// ClientCertificate signs a certificate for a client of that name.
func (w *World) ClientCertificate(notAfter time.Time, name string) tls.Certificate {
	cert, key := w.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (w *World) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatalf("make a key: %v", err)
	}
	template.SerialNumber, template.NotBefore = big.NewInt(mathrand.Int64()), time.Now().Add(-24*time.Hour)
	parent, signer := w.ca, w.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		w.t.Fatalf("sign a certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		w.t.Fatalf("read back a certificate: %v", err)
	}
	return cert, key
}

// site is a host to serve.
type site struct {
	name    string
	port    int // 0 means any
	plain   bool
	http2   bool
	handler http.Handler
	accept  func(net.Conn) net.Conn // may spoil a connection before TLS; nil leaves all alone
}

// serve starts a host until the end of the test. Every host has an address of its own, so two may have one port.
func (w *World) serve(s site) string {
	w.t.Helper()
	listener, err := listen(s.port)
	if err != nil {
		w.t.Fatalf("serve %s: %v", s.name, err)
	}
	at := listener.Addr().(*net.TCPAddr).AddrPort()
	if s.accept != nil {
		listener = spoiling{listener, s.accept}
	}
	server := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: time.Minute, MaxHeaderBytes: 4 << 20,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
	}
	w.mu.Lock()
	w.addresses[s.name] = at
	w.mu.Unlock()
	ended := make(chan struct{})
	go func() { // until the clean-up below, which waits for it
		defer close(ended)
		if s.plain {
			_ = server.Serve(listener)
			return
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{w.Certificate(time.Now().Add(24*time.Hour), s.name, at.Addr().String())}}
		server.Protocols = new(http.Protocols)
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetHTTP2(s.http2)
		_ = server.ServeTLS(listener, "", "")
	}()
	w.t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return fmt.Sprintf("%s:%d", s.name, at.Port())
}

// listen takes a random address of 127.0.0.0/8, so that fixed ports do not collide.
func listen(port int) (net.Listener, error) {
	var err error
	for range 20 {
		ip := netip.AddrFrom4([4]byte{127, byte(1 + mathrand.IntN(250)), byte(mathrand.IntN(256)), byte(1 + mathrand.IntN(250))})
		var l net.Listener
		if l, err = net.Listen("tcp", netip.AddrPortFrom(ip, uint16(port)).String()); err == nil {
			return l, nil
		}
	}
	return nil, err
}

type spoiling struct {
	net.Listener
	spoil func(net.Conn) net.Conn
}

func (l spoiling) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.spoil(conn), nil
}
