package registrytest

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
)

// Request is a request as one of the hosts saw it.
type Request struct {
	Host   string // name of the host that was asked, without a port: "cdn.registry.test"
	Method string
	Path   string // path and query as sent
	Proto  string
	Header http.Header
	User   string // who was let in; empty is anonymous
	Status int    // 0 while there is no answer yet
	Sent   int64  // bytes of the answer's body
	Done   bool   // whether the answer has ended
}

// Authorization is that header.
func (r Request) Authorization() string { return r.Header.Get("Authorization") }

// Range is that header.
func (r Request) Range() string { return r.Header.Get("Range") }

// Log remembers every request, from its arrival on.
type Log struct {
	t testing.TB

	// mu guards the fields that follow it.
	mu      sync.Mutex
	entries []*Request
	news    chan struct{} // closed at each change
}

func newLog(t testing.TB) *Log { return &Log{t: t, news: make(chan struct{})} }

// Requests are all so far, in the order of their arrival.
func (l *Log) Requests() []Request { return l.Find(func(Request) bool { return true }) }

// Find returns the requests that match.
func (l *Log) Find(match func(Request) bool) []Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Request
	for _, e := range l.entries {
		if match(*e) {
			out = append(out, *e)
		}
	}
	return out
}

// To returns the requests to the host of that name.
func (l *Log) To(host string) []Request {
	return l.Find(func(r Request) bool { return r.Host == host })
}

// Count is how many requests had that method, or any if it is empty, and the text in their path:
// Count("GET", "/blobs/"). A blob that was redirected is counted at the registry alone.
func (l *Log) Count(method, text string) int {
	return len(l.Find(func(r Request) bool { return r.matches(method, text) }))
}

func (r Request) matches(method, text string) bool {
	return (method == "" || r.Method == method) && strings.Contains(r.Path, text)
}

// BlobBytes is how many bytes of a digest have been sent, by whichever host.
func (l *Log) BlobBytes(digest oci.Digest) int64 {
	var sum int64
	for _, r := range l.Find(func(r Request) bool { return r.Status < 300 && strings.Contains(r.Path, digest.Hex()) }) {
		sum += r.Sent
	}
	return sum
}

// Forget empties the log. Requests that run are forgotten too.
func (l *Log) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = nil
}

// Await waits until n requests of that method with that text in their path have arrived, and ends the test if they do
// not within half a minute.
func (l *Log) Await(n int, method, text string) {
	l.t.Helper()
	l.AwaitFunc(n, func(r Request) bool { return r.matches(method, text) })
}

// AwaitFunc waits until n requests match.
func (l *Log) AwaitFunc(n int, match func(Request) bool) {
	l.t.Helper()
	timeout := time.NewTimer(30 * time.Second)
	defer timeout.Stop()
	for {
		l.mu.Lock()
		news := l.news
		l.mu.Unlock()
		if len(l.Find(match)) >= n {
			return
		}
		select {
		case <-news:
		case <-timeout.C:
			l.t.Fatalf("the registry saw %d of %d requests after 30 s; all it saw: %+v", len(l.Find(match)), n, l.Requests())
		}
	}
}

// change runs f under the lock and wakes those who wait.
func (l *Log) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.news)
	l.news = make(chan struct{})
}

func (l *Log) handler(host string, next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		e := &Request{Host: host, Method: req.Method, Path: req.RequestURI, Proto: req.Proto, Header: req.Header.Clone()}
		l.change(func() { l.entries = append(l.entries, e) })
		rec := &recorder{ResponseWriter: w, log: l, entry: e}
		defer l.change(func() { e.Done = true })
		next(rec, req)
		rec.WriteHeader(http.StatusOK) // if nothing was written
	})
}

// recorder notes status and size of an answer.
type recorder struct {
	http.ResponseWriter
	log   *Log
	entry *Request
	wrote bool
}

// Unwrap is for [http.ResponseController].
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if r.wrote {
		return
	}
	if status >= 200 {
		r.wrote = true
		r.log.change(func() { r.entry.Status = status })
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	n, err := r.ResponseWriter.Write(b)
	r.log.change(func() { r.entry.Sent += int64(n) })
	return n, err
}

// letIn notes who was let in.
func letIn(w http.ResponseWriter, user string) {
	if rec, ok := w.(*recorder); ok {
		rec.log.change(func() { rec.entry.User = user })
	}
}

// Paths are the methods and paths of requests, for messages: "GET /v2/".
func Paths(requests []Request) []string {
	return slices.Collect(func(yield func(string) bool) {
		for _, r := range requests {
			if !yield(r.Method + " " + r.Path) {
				return
			}
		}
	})
}
