package proxy

import (
	"io"
	"net/http"
	"time"
)

// timedBody is a client's body that fails when no byte of it comes within the time-out. There is no bound on the whole.
type timedBody struct {
	io.ReadCloser
	rc      *http.ResponseController
	timeout time.Duration
}

func (b *timedBody) Read(p []byte) (int, error) {
	b.begin()
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.end()
	}
	return n, err
}

// Close reads what little the server is willing to discard.
func (b *timedBody) Close() error {
	b.begin()
	defer b.end()
	return b.ReadCloser.Close()
}

func (b *timedBody) begin() { _ = b.rc.SetReadDeadline(time.Now().Add(b.timeout)) } // where it cannot be set there is none

// end keeps what the server reads after the body, to see the client leave, from timing out: that would pass for its
// leaving.
func (b *timedBody) end() { _ = b.rc.SetReadDeadline(time.Time{}) }
