// Package load is the benchmark's client. Its invariant: it costs as little as a client can, so that what it takes from
// a small machine is the same for whatever is measured: buffers are used again, bodies are dropped as they come, and are
// hashed only when asked for. It follows no redirects and tries nothing again.
package load

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// Target is how a server is reached.
type Target struct {
	Addr string // that is connected to
	Host string // that is asked for: the Host header, and the authority of a CONNECT
	// Connect has Addr taken for a proxy that is asked for a connection to Host.
	Connect bool
	// TLS is what the server, behind the proxy if there is one, is spoken to with; nil is plain HTTP.
	TLS *tls.Config
	// Query is added to every path.
	Query string
}

// received is how much is read at a time.
const received = 256 << 10

// timeout bounds a whole request: nothing that is measured takes nearly as long.
const timeout = 5 * time.Minute

// Conn is a connection that requests are made on, one after the other. It is not safe for concurrent use.
type Conn struct {
	target Target
	net    net.Conn
	reader *bufio.Reader
	buffer []byte
	closed bool // by the server, with its last answer
}

// Options change how a connection is made; the zero value changes nothing.
type Options struct {
	// ReceiveBuffer is the size of the socket's buffer, for a client that is to be slow; 0 leaves it to the system.
	ReceiveBuffer int
}

// Dial connects to a target, through its proxy and with TLS if it has them.
func Dial(ctx context.Context, target Target, options Options) (*Conn, error) {
	c := &Conn{target: target}
	return c, c.dial(ctx, options)
}

func (c *Conn) dial(ctx context.Context, options Options) (err error) {
	dialer := net.Dialer{Timeout: 30 * time.Second}
	if options.ReceiveBuffer > 0 {
		dialer.Control = func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, options.ReceiveBuffer) // a hint
			})
		}
	}
	if c.net, err = dialer.DialContext(ctx, "tcp", c.target.Addr); err != nil {
		return err
	}
	if err := c.establish(ctx); err != nil {
		_ = c.net.Close()
		return fmt.Errorf("connect to %s over %s: %w", c.target.Host, c.target.Addr, err)
	}
	if c.reader == nil {
		c.reader = bufio.NewReaderSize(c.net, 4<<10)
	}
	c.reader.Reset(c.net)
	c.closed = false
	return nil
}

func (c *Conn) establish(ctx context.Context) error {
	if err := c.net.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if c.target.Connect {
		if err := c.connect(); err != nil {
			return err
		}
	}
	if c.target.TLS == nil {
		return nil
	}
	secure := tls.Client(c.net, c.target.TLS)
	c.net = secure
	return secure.HandshakeContext(ctx)
}

// connect asks the proxy for a connection. Nothing may come behind its answer before the client has spoken.
func (c *Conn) connect() error {
	if _, err := io.WriteString(c.net, "CONNECT "+c.target.Host+" HTTP/1.1\r\nHost: "+c.target.Host+"\r\n\r\n"); err != nil {
		return err
	}
	var answer [1 << 10]byte
	for n := 0; ; {
		m, err := c.net.Read(answer[n:])
		if n += m; strings.HasSuffix(string(answer[:n]), "\r\n\r\n") {
			if !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 200 ") {
				return fmt.Errorf("CONNECT: %q", answer[:n])
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("CONNECT: %w", err)
		}
	}
}

// Close ends the connection. It leaves no TIME_WAIT behind, of which a benchmark would collect too many.
func (c *Conn) Close() error {
	raw := c.net
	if secure, ok := raw.(*tls.Conn); ok {
		raw = secure.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // if it cannot be set there is a TIME_WAIT
	}
	return raw.Close()
}

// Request is a GET.
type Request struct {
	Path string
	// Hash has the body hashed and compared with what stands behind the path's last slash.
	Hash bool
	// Keep has the body kept and returned.
	Keep bool
	// Rate is how many bytes a second are read at most; 0 is no limit.
	Rate int64
	// First, if not nil, is called when the first byte of the body is there, and Part with the size of each that is read.
	First func()
	Part  func(n int)
}

// Answer is what came.
type Answer struct {
	Bytes int64
	First time.Duration // until the first byte of the body, or the end of the head if there is none
	Took  time.Duration // until the last byte
	Body  []byte        // if it was to be kept
}

// accept are the media types that container clients name.
const accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
	"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"

// Get asks for a path and reads the answer to its end. Every status but 200 is an error. A connection that the server
// has closed in good order is made anew first.
func (c *Conn) Get(ctx context.Context, r Request) (Answer, error) {
	if c.closed {
		_ = c.Close()
		if err := c.dial(ctx, Options{}); err != nil {
			return Answer{}, err
		}
	}
	began := time.Now()
	if err := c.net.SetDeadline(began.Add(timeout)); err != nil {
		return Answer{}, err
	}
	head := "GET " + r.Path + c.target.Query + " HTTP/1.1\r\nHost: " + c.target.Host + "\r\nUser-Agent: bench\r\nAccept: " + accept + "\r\n\r\n"
	if _, err := io.WriteString(c.net, head); err != nil {
		return Answer{}, err
	}
	resp, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return Answer{}, fmt.Errorf("GET %s: %w", r.Path, err)
	}
	c.closed = resp.Close
	if resp.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what there is of it helps
		return Answer{}, fmt.Errorf("GET %s: %s: %s", r.Path, resp.Status, reason)
	}
	answer, err := c.body(r, resp.Body, began)
	if err == nil && resp.ContentLength >= 0 && answer.Bytes != resp.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return Answer{}, fmt.Errorf("GET %s: %w", r.Path, err)
	}
	return answer, nil
}

// body reads a body in the way that the request asks for.
func (c *Conn) body(r Request, body io.Reader, began time.Time) (a Answer, err error) {
	if c.buffer == nil {
		c.buffer = make([]byte, received)
	}
	buffer := c.buffer
	if r.Rate > 0 {
		buffer = buffer[:16<<10]
	}
	var hash hash.Hash
	if r.Hash {
		hash = sha256.New()
	}
	for err == nil {
		var n int
		n, err = body.Read(buffer)
		if n == 0 {
			continue
		}
		if a.Bytes == 0 {
			a.First = time.Since(began)
			if r.First != nil {
				r.First()
			}
		}
		a.Bytes += int64(n)
		if r.Hash {
			_, _ = hash.Write(buffer[:n]) // a hash never fails
		}
		if r.Keep {
			a.Body = append(a.Body, buffer[:n]...)
		}
		if r.Part != nil {
			r.Part(n)
		}
		if r.Rate > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(a.Bytes * int64(time.Second) / r.Rate))))
		}
	}
	a.Took = time.Since(began)
	if a.Bytes == 0 {
		a.First = a.Took
	}
	if !errors.Is(err, io.EOF) {
		return a, err
	}
	if r.Hash && "sha256:"+hex.EncodeToString(hash.Sum(nil)) != r.Path[strings.LastIndexByte(r.Path, '/')+1:] {
		return a, errors.New("the body is not what its digest says")
	}
	return a, nil
}
