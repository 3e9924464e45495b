package gather_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/gather"
)

// recorder keeps the writes that reach the network.
type recorder struct {
	net.Conn
	mu     sync.Mutex
	writes [][]byte
	fail   error
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return 0, r.fail
	}
	r.writes = append(r.writes, bytes.Clone(p))
	return len(p), nil
}

func TestGathersInOrder(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	c := gather.New(r, 0)
	var sent []byte
	write := func(n int) {
		t.Helper()
		p := make([]byte, n)
		_, _ = rand.Read(p)
		sent = append(sent, p...)
		if m, err := c.Write(p); m != n || err != nil {
			t.Fatalf("Write = %d, %v, want %d, nil", m, err, n)
		}
	}
	write(100) // at once
	c.Start()
	for range 8 { // as a body of 128 KiB in TLS records
		write(16<<10 + 22)
	}
	if n := len(r.writes); n != 1 {
		t.Errorf("%d writes reached the network while gathering, want the 1 from before", n)
	}
	write(16<<10 + 22) // does not fit
	if n := len(r.writes); n != 2 {
		t.Errorf("%d writes after the buffer was full, want 2", n)
	}
	write(1 << 20) // never fits
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	write(5)
	if got := bytes.Join(r.writes, nil); !bytes.Equal(got, sent) {
		t.Errorf("%d bytes left, want the %d that were written, in order", len(got), len(sent))
	}
}

func TestFlushHoldsNothingBack(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	c := gather.New(r, 0)
	c.Start()
	_, _ = c.Write([]byte("a"))
	if err := c.Flush(); err != nil || len(r.writes) != 1 {
		t.Errorf("Flush: %v with %d writes, want nil with 1", err, len(r.writes))
	}
	_, _ = c.Write([]byte("b"))
	if err := c.Stop(); err != nil || len(r.writes) != 2 {
		t.Errorf("Stop: %v with %d writes, want nil with 2", err, len(r.writes))
	}
}

// A part of a body outside TLS is as large as what is gathered: it is sent as it is, but never ahead of what waits.
func TestLargeWritesAreNotCopied(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	c := gather.New(r, 0)
	c.Start()
	part := bytes.Repeat([]byte("p"), 128<<10)
	for _, p := range [][]byte{part, []byte("head"), part} {
		if n, err := c.Write(p); n != len(p) || err != nil {
			t.Fatalf("Write = %d, %v, want %d, nil", n, err, len(p))
		}
	}
	if n := len(r.writes); n != 1 {
		t.Errorf("%d writes before Stop, want the first part alone", n)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if got := bytes.Join(r.writes, nil); !bytes.Equal(got, bytes.Join([][]byte{part, []byte("head"), part}, nil)) {
		t.Errorf("%d bytes left, not those that were written, in order", len(got))
	}
}

// After a failed write nothing more may leave: the client would take what follows for what is missing.
func TestNothingFollowsAHole(t *testing.T) {
	t.Parallel()
	r := &recorder{fail: errors.New("gone")}
	c := gather.New(r, 0)
	c.Start()
	_, _ = c.Write([]byte("lost"))
	if err := c.Flush(); !errors.Is(err, r.fail) {
		t.Fatalf("Flush: %v, want %v", err, r.fail)
	}
	r.fail = nil
	if _, err := c.Write([]byte("next")); err == nil {
		t.Error("Write after a hole succeeds")
	}
	if err := c.Stop(); err == nil || len(r.writes) != 0 {
		t.Errorf("Stop: %v with %d writes, want an error with none", err, len(r.writes))
	}
}

func TestNilDoesNothing(t *testing.T) {
	t.Parallel()
	var c *gather.Conn
	c.Start()
	if err := errors.Join(c.Flush(), c.Stop()); err != nil {
		t.Error(err)
	}
}

// pair is a connected pair of TCP sockets.
func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(a.Close(), b.Close()) })
	return a, b
}

func TestStalledClientTimesOut(t *testing.T) {
	t.Parallel()
	a, _ := pair(t)
	c := gather.New(a, 50*time.Millisecond)
	if _, err := c.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write to a client that reads nothing: %v, want a time-out", err)
	}
}

// A client that takes a little all the time is slow, not stalled: the whole may take many time-outs.
func TestSlowClientDoesNotTimeOut(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	const timeout = 500 * time.Millisecond
	c := gather.New(a, timeout)
	const total = 32 << 20 // far more than the sockets hold
	read := make(chan int64, 1)
	start := time.Now()
	go func() {
		var n int64
		buf := make([]byte, total/32)
		for {
			m, err := io.ReadFull(b, buf)
			n += int64(m)
			if err != nil || n == total {
				read <- n
				return
			}
			time.Sleep(timeout / 4)
		}
	}()
	n, err := c.Write(make([]byte, total))
	if n != total || err != nil {
		t.Errorf("Write = %d, %v after %s, want %d, nil", n, err, time.Since(start), total)
	}
	_ = a.Close()
	if n := <-read; n != total {
		t.Errorf("client read %d bytes, want %d", n, total)
	}
}

func TestFromIsForHTTP1Alone(t *testing.T) {
	t.Parallel()
	c := gather.New(&recorder{}, 0)
	r := (&http.Request{ProtoMajor: 1}).WithContext(gather.NewContext(context.Background(), c))
	if got := gather.From(r); got != c {
		t.Errorf("From(HTTP/1.1) = %v, want the connection", got)
	}
	r.ProtoMajor = 2
	if got := gather.From(r); got != nil {
		t.Errorf("From(HTTP/2) = %v, want nil", got)
	}
	if got := gather.From(&http.Request{ProtoMajor: 1}); got != nil {
		t.Errorf("From(no connection) = %v, want nil", got)
	}
}

// Await returns when the client has made room, and not before; a client that makes none is given up.
func TestAwait(t *testing.T) {
	t.Parallel()
	near, far := pair(t)
	c := gather.New(near, 20*time.Second)
	c.Start()
	if _, err := c.Write([]byte("held back")); err != nil {
		t.Fatal(err)
	}
	if err := c.Await(); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, len("held back"))
	if _, err := io.ReadFull(far, first); err != nil || string(first) != "held back" {
		t.Errorf("got %q, %v of what was held back", first, err)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}

	fill(t, near)
	room := make(chan error)
	go func() { room <- c.Await() }()
	select {
	case err := <-room:
		t.Fatalf("Await returned %v although the socket takes no more", err)
	case <-time.After(100 * time.Millisecond):
	}
	go func() { _, _ = io.Copy(io.Discard, far) }() // until the test ends
	if err := <-room; err != nil {
		t.Errorf("Await = %v once the client reads", err)
	}
}

func TestAwaitGivesAStuckClientUp(t *testing.T) {
	t.Parallel()
	near, _ := pair(t)
	c := gather.New(near, 50*time.Millisecond)
	fill(t, near)
	if err := c.Await(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Await = %v, want that the time is up", err)
	}
	if _, err := c.Write([]byte("more")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write after that = %v, want the same", err)
	}
	for _, c := range []*gather.Conn{nil, gather.New(&recorder{}, time.Second)} { // nothing to wait for
		if err := c.Await(); err != nil {
			t.Error(err)
		}
	}
}

// fill writes until the socket takes no more.
func fill(t *testing.T, conn net.Conn) {
	t.Helper()
	for quiet := 0; quiet < 3; {
		if err := conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Write(make([]byte, 1<<20))
		if err == nil || n > 0 {
			quiet = 0
			continue
		}
		quiet++
	}
	if err := conn.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
}
