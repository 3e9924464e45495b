package upstream

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// maxRefusal bounds the error body of a registry that we keep: OCI error documents are a few hundred bytes.
const maxRefusal = 64 << 10

// Refusal is a registry's answer other than success, kept so that the client can be given the registry's own words.
type Refusal struct {
	Status int
	Header http.Header
	Body   []byte // at most 64 KiB
}

// NewRefusal reads and closes resp.
func NewRefusal(resp *http.Response) *Refusal {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)) // what there is of it is what there is to pass on
	return &Refusal{Status: resp.StatusCode, Header: resp.Header, Body: body}
}

func (r *Refusal) Error() string { return fmt.Sprintf("upstream answered %d", r.Status) }

// Temporary reports whether the status speaks of the registry's trouble (429, 5xx) and not of what was asked for.
func (r *Refusal) Temporary() bool {
	return r.Status == http.StatusTooManyRequests || r.Status >= http.StatusInternalServerError
}

// RetryAfter is how long the registry wants to be left alone (RFC 9110, section 10.2.3); 0 where it does not say.
func (r *Refusal) RetryAfter() time.Duration {
	value := r.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}
