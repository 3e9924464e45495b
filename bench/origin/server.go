package origin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"container-registry-proxy/internal/gather"
)

// Server is a registry without storage. It is safe for concurrent use.
type Server struct {
	rate   atomic.Int64 // bytes a second and connection; 0 is no limit
	counts counters

	mu        sync.RWMutex // guards the fields that follow
	blobs     map[string]Blob
	documents map[string]document // by digest, and by tag
}

// document is a manifest or an index.
type document struct {
	mediaType, digest string
	body              []byte
}

// Counts is what the origin was asked for since it started. Bytes are those of blobs, as far as they were sent.
type Counts struct {
	BlobGets, BlobRanges, BlobHeads, ManifestGets, ManifestHeads, Bytes int64
}

type counters struct {
	blobGets, blobRanges, blobHeads, manifestGets, manifestHeads, bytes atomic.Int64
}

// Minus is what was asked for between two readings.
func (c Counts) Minus(before Counts) Counts {
	return Counts{
		BlobGets: c.BlobGets - before.BlobGets, BlobRanges: c.BlobRanges - before.BlobRanges, BlobHeads: c.BlobHeads - before.BlobHeads,
		ManifestGets: c.ManifestGets - before.ManifestGets, ManifestHeads: c.ManifestHeads - before.ManifestHeads, Bytes: c.Bytes - before.Bytes,
	}
}

// New returns an origin that has nothing yet.
func New() *Server {
	return &Server{blobs: map[string]Blob{}, documents: map[string]document{}}
}

// Serve answers on all listeners, with the registry's API on secure and plain and with the control of it on control.
func (s *Server) Serve(secure, plain, control net.Listener, cert tls.Certificate) error {
	config := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	failed := make(chan error, 3)
	for _, serve := range []func() error{
		func() error {
			return s.server(http.HandlerFunc(s.registry)).Serve(tls.NewListener(gathering{secure}, config))
		},
		func() error { return s.server(http.HandlerFunc(s.registry)).Serve(gathering{plain}) },
		func() error { return s.server(s.control()).Serve(control) },
	} {
		go func() { failed <- serve() }() // until the process ends
	}
	return <-failed
}

func (s *Server) server(handler http.Handler) *http.Server {
	return &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		ctx = context.WithValue(ctx, paceKey{}, &pace{})
		if secure, ok := c.(*tls.Conn); ok {
			c = secure.NetConn()
		}
		if gathered, ok := c.(*gather.Conn); ok {
			ctx = gather.NewContext(ctx, gathered)
		}
		return ctx
	}}
}

// gathering joins the TLS records of a body, so that the origin is not what slows a download down.
type gathering struct{ net.Listener }

func (l gathering) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return gather.New(c, 0), nil
}

// registry answers pulls of the distribution API.
func (s *Server) registry(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if _, digest, ok := strings.Cut(r.URL.Path, "/blobs/"); ok {
		s.blob(w, r, digest)
		return
	}
	if _, reference, ok := strings.Cut(r.URL.Path, "/manifests/"); ok {
		s.manifest(w, r, reference)
		return
	}
	if r.URL.Path != "/v2/" {
		http.NotFound(w, r)
	}
}

func (s *Server) manifest(w http.ResponseWriter, r *http.Request, reference string) {
	s.mu.RLock()
	doc, ok := s.documents[reference]
	s.mu.RUnlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", doc.mediaType)
	w.Header().Set("Docker-Content-Digest", doc.digest)
	w.Header().Set("Content-Length", strconv.Itoa(len(doc.body)))
	if r.Method == http.MethodHead {
		s.counts.manifestHeads.Add(1)
		return
	}
	s.counts.manifestGets.Add(1)
	_, _ = w.Write(doc.body) // the client may have left
}

func (s *Server) blob(w http.ResponseWriter, r *http.Request, digest string) {
	s.mu.RLock()
	blob, ok := s.blobs[digest]
	s.mu.RUnlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Docker-Content-Digest", digest)
	start, end, err := span(r.Header.Get("Range"), blob.Size)
	if err != nil {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", blob.Size))
		http.Error(w, err.Error(), http.StatusRequestedRangeNotSatisfiable)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(end-start, 10))
	switch {
	case r.Method == http.MethodHead:
		s.counts.blobHeads.Add(1)
		return
	case r.Header.Get("Range") != "":
		s.counts.blobRanges.Add(1)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, end-1, blob.Size))
		w.WriteHeader(http.StatusPartialContent)
	default:
		s.counts.blobGets.Add(1)
	}
	s.send(w, r, blob, start, end)
}

// span reads a single range.
func span(header string, size int64) (start, end int64, err error) {
	if header == "" {
		return 0, size, nil
	}
	from, to, ok := strings.Cut(strings.TrimPrefix(header, "bytes="), "-")
	start, err = strconv.ParseInt(from, 10, 64)
	if !ok || err != nil {
		return 0, 0, fmt.Errorf("range %q: want bytes=start-end", header)
	}
	end = size
	if to != "" {
		if end, err = strconv.ParseInt(to, 10, 64); err != nil {
			return 0, 0, fmt.Errorf("range %q: want bytes=start-end", header)
		}
		end = min(end+1, size)
	}
	if start < 0 || start >= end {
		return 0, 0, errors.New("range begins behind the end")
	}
	return start, end, nil
}

// sent is what is made and sent at a time.
const sent = 128 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, sent); return &b }}

// send writes the blob's bytes from start up to end, no faster than the connection may.
func (s *Server) send(w io.Writer, r *http.Request, blob Blob, start, end int64) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	conn := gather.From(r)
	conn.Start()
	defer func() { _ = conn.Stop() }() // the client may have left
	pace := r.Context().Value(paceKey{}).(*pace)
	for start < end {
		rate := s.rate.Load()
		part := (*buffer)[:min(end-start, sent)]
		if rate > 0 {
			part = part[:min(len(part), block)] // in small steps, so that the rate is even
		}
		n := blob.ReadAt(part, start)
		if _, err := w.Write(part[:n]); err != nil {
			return
		}
		s.counts.bytes.Add(int64(n))
		start += int64(n)
		if rate > 0 {
			if err := conn.Flush(); err != nil {
				return
			}
			pace.wait(n, rate)
		}
	}
}

type paceKey struct{}

// pace is when a connection may send again. Requests of one connection follow one another, so it needs no lock.
type pace struct{ next time.Time }

func (p *pace) wait(n int, rate int64) {
	if now := time.Now(); p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(int64(n) * int64(time.Second) / rate))
	time.Sleep(time.Until(p.next))
}
