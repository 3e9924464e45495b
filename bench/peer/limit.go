package peer

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"container-registry-proxy/internal/store"
)

// ServeLimit answers every request with the bytes of one file, over TLS, with as little as that takes: each part is read
// into one buffer and encrypted, and its records leave together. It is what a hit cannot be cheaper than. A path that
// begins with /sums/ has each chunk's sum checked, as a hit has.
func ServeLimit(l net.Listener, cert tls.Certificate, name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	sums, err := sumsOf(file)
	if err != nil {
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}, DynamicRecordSizingDisabled: true}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() { // ends with the connection
			s := limited{file: file, size: info.Size(), sums: sums, conn: &joined{Conn: c, buffer: make([]byte, 0, gathered+4<<10)}}
			_ = s.serve(config) // the client has left
		}()
	}
}

// gathered is how much is read, encrypted and sent at a time: what fits a core's cache.
const gathered = 128 << 10

func sumsOf(r io.ReaderAt) ([]uint64, error) {
	var sums []uint64
	chunk := make([]byte, store.ChunkSize)
	for off := int64(0); ; off += store.ChunkSize {
		n, err := r.ReadAt(chunk, off)
		if n > 0 {
			sums = append(sums, store.Sum(chunk[:n]))
		}
		if err == io.EOF {
			return sums, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// limited is one connection.
type limited struct {
	file *os.File
	size int64
	sums []uint64
	conn *joined
}

func (s *limited) serve(config *tls.Config) error {
	defer s.conn.Close()
	secure := tls.Server(s.conn, config)
	reader := bufio.NewReader(secure)
	buffer := make([]byte, gathered)
	for {
		r, err := http.ReadRequest(reader)
		if err != nil {
			return err
		}
		s.conn.hold = true
		if _, err := fmt.Fprintf(secure, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", s.size); err != nil {
			return err
		}
		for off := int64(0); off < s.size; off += gathered {
			part := buffer[:min(gathered, s.size-off)]
			if _, err := s.file.ReadAt(part, off); err != nil {
				return err
			}
			if strings.HasPrefix(r.URL.Path, "/sums/") {
				if err := s.check(part, off); err != nil {
					return err
				}
			}
			if _, err := secure.Write(part); err != nil {
				return err
			}
			if err := s.conn.send(); err != nil {
				return err
			}
		}
		s.conn.hold = false
	}
}

func (s *limited) check(part []byte, off int64) error {
	for at := 0; at < len(part); at += store.ChunkSize {
		chunk := part[at:min(at+store.ChunkSize, len(part))]
		if number := (off + int64(at)) / store.ChunkSize; store.Sum(chunk) != s.sums[number] {
			return fmt.Errorf("chunk %d is damaged", number)
		}
	}
	return nil
}

// joined holds writes back until they are sent together.
type joined struct {
	net.Conn
	hold   bool
	buffer []byte
}

func (c *joined) Write(p []byte) (int, error) {
	if !c.hold {
		return c.Conn.Write(p)
	}
	c.buffer = append(c.buffer, p...)
	return len(p), nil
}

func (c *joined) send() error {
	_, err := c.Conn.Write(c.buffer)
	c.buffer = c.buffer[:0]
	return err
}

// FillPrefix is what the path of a small fill of the limit begins with.
const FillPrefix = "/fill"

// smallLimit answers with net/http over TLS, with the header fields of a blob and a line in the log: 2 KiB from memory,
// or below FillPrefix what the origin has at the rest of the path, which it hashes and writes to a file of its own, once
// more for each request. It is what a small hit, and a small fill, cannot be cheaper than, unless net/http is left.
type smallLimit struct {
	log      *slog.Logger
	memory   object
	upstream string // the origin's authority
	client   *http.Client
	dir      string
	files    atomic.Int64
}

// object is what is answered.
type object struct {
	bytes  []byte
	digest string
}

func newObject(b []byte) object { return object{b, fmt.Sprintf("sha256:%x", sha256.Sum256(b))} }

// newSmallLimit has its files below dir, and trusts the authority in a PEM file.
func newSmallLimit(dir, authority, upstream string) (*smallLimit, error) {
	certificate, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	files := filepath.Join(dir, "limit-objects")
	if err := os.MkdirAll(files, 0o755); err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: client(roots), MaxIdleConnsPerHost: 64, DisableCompression: true}
	return &smallLimit{
		log: slog.New(slog.NewJSONHandler(os.Stderr, nil)), memory: newObject(make([]byte, 2<<10)), upstream: upstream,
		client: &http.Client{Transport: transport}, dir: files,
	}, nil
}

func (s *smallLimit) serve(l net.Listener, cert tls.Certificate) error {
	server := &http.Server{Handler: s}
	return server.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}))
}

func (s *smallLimit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o := s.memory
	if path, ok := strings.CutPrefix(r.URL.Path, FillPrefix); ok {
		var err error
		if o, err = s.fill(r.Context(), path); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(len(o.bytes)))
	h.Set("Docker-Content-Digest", o.digest)
	h.Set("ETag", `"`+o.digest+`"`)
	h.Set("Accept-Ranges", "bytes")
	_, _ = w.Write(o.bytes) // the client may have left
	s.log.LogAttrs(r.Context(), slog.LevelInfo, "request", slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("bytes", len(o.bytes)))
}

func (s *smallLimit) fill(ctx context.Context, path string) (object, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.upstream+path, nil)
	if err != nil {
		return object{}, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return object{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return object{}, fmt.Errorf("%s: %s", path, resp.Status)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return object{}, err
	}
	number := s.files.Add(1)
	name := filepath.Join(s.dir, fmt.Sprintf("%02x", number%256), strconv.FormatInt(number, 10))
	if number <= 256 {
		err = os.MkdirAll(filepath.Dir(name), 0o755)
	}
	return newObject(body), errors.Join(err, os.WriteFile(name, body, 0o444))
}
