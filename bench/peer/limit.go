package peer

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

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

func sumsOf(r io.ReaderAt) ([]uint32, error) {
	var sums []uint32
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
	sums []uint32
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

// serveSmall answers every request with 2 KiB from memory: net/http over TLS, with the header fields of a blob and a line
// in the log. It is what a small hit cannot be cheaper than, unless net/http is left.
func serveSmall(l net.Listener, cert tls.Certificate) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	body := make([]byte, 2<<10)
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(body))
	answer := func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/octet-stream")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("Docker-Content-Digest", digest)
		h.Set("ETag", `"`+digest+`"`)
		h.Set("Accept-Ranges", "bytes")
		_, _ = w.Write(body) // the client may have left
		log.LogAttrs(r.Context(), slog.LevelInfo, "request", slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("bytes", len(body)))
	}
	server := &http.Server{Handler: http.HandlerFunc(answer)}
	return server.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}))
}
