package demo

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"container-registry-proxy/internal/oci"
)

// latency is added to every answer of the toy registry: a registry is somewhere else.
const latency = 20 * time.Millisecond

// toyRegistry serves one image over TLS, slowly. It asks for no login and ignores ranges.
type toyRegistry struct {
	host        string // host:port
	certificate []byte // PEM, to be trusted
	img         *image
	rate        int64
	server      *http.Server
	blobs       atomic.Int64 // GETs of blobs
	sent        atomic.Int64 // bytes of bodies
}

// startRegistry listens on a free port of loopback until close.
func startRegistry(img *image, rate int64) (*toyRegistry, error) {
	certificate, err := newCertificate()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &toyRegistry{
		host: listener.Addr().String(), img: img, rate: rate,
		certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}),
	}
	r.server = &http.Server{
		Handler: r, ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
	}
	go func() { _ = r.server.ServeTLS(listener, "", "") }() // until close
	return r, nil
}

func (r *toyRegistry) close() { _ = r.server.Close() }

func (r *toyRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	time.Sleep(latency)
	p, err := oci.ParsePath(req.URL.EscapedPath())
	switch {
	case err != nil || req.Method != http.MethodGet && req.Method != http.MethodHead:
		http.Error(w, "this is a toy", http.StatusNotFound)
	case p.Kind == oci.KindPing:
		w.WriteHeader(http.StatusOK)
	case p.Kind == oci.KindManifest && (p.Tag == tag || p.Digest == oci.FromBytes(r.img.manifest)) && p.Repository == repository:
		r.send(w, req, typeManifest, r.img.manifest)
	case p.Kind == oci.KindBlob && r.img.blobs[p.Digest] != nil && p.Repository == repository:
		if req.Method == http.MethodGet {
			r.blobs.Add(1)
		}
		r.send(w, req, "application/octet-stream", r.img.blobs[p.Digest])
	default:
		http.Error(w, "this toy has one image", http.StatusNotFound)
	}
}

// send writes a body at the registry's rate.
func (r *toyRegistry) send(w http.ResponseWriter, req *http.Request, mediaType string, body []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("Docker-Content-Digest", string(oci.FromBytes(body)))
	if req.Method == http.MethodHead {
		return
	}
	const step = 32 << 10
	start := time.Now()
	for sent := 0; sent < len(body); {
		n, err := w.Write(body[sent:min(sent+step, len(body))])
		sent += n
		r.sent.Add(int64(n))
		if err != nil {
			return // the client left
		}
		due := start.Add(time.Duration(int64(sent)) * time.Second / time.Duration(r.rate))
		time.Sleep(time.Until(due))
	}
}

// newCertificate returns one for 127.0.0.1 that is its own authority.
func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
