package registrytest

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Faults are habits and faults that a test may change while requests run. The zero value has none.
type Faults struct {
	// Registry, Token and CDN are outages of those hosts.
	Registry, Token, CDN Outage

	// OmitDigestHeader leaves Docker-Content-Digest away, as ECR and some load balancers do; WrongDigestHeader names
	// other content.
	OmitDigestHeader, WrongDigestHeader bool

	// HeadStatus answers every HEAD of a manifest or blob: 405 and 403 are seen in the field.
	HeadStatus int

	// Redirect sends blobs to the CDN with that status: 301, 302, 303, 307 or 308. The CDN answers 400 to a request
	// that has an Authorization, as S3 and Azure do to signed URLs.
	Redirect int

	// RedirectManifests sends manifests there too, as registry.k8s.io does.
	RedirectManifests bool

	// RelativeRedirect stays on the registry's host with a relative Location, as Google's does.
	RelativeRedirect bool

	// RedirectHops is how many redirects there are before the content; 0 means one.
	RedirectHops int

	// URLLife is how long a redirect's target is valid; 0 means an hour. After it the CDN answers ExpiredStatus,
	// 403 if that is 0 (S3 says 400 at times).
	URLLife       time.Duration
	ExpiredStatus int

	// RateLimit is the RateLimit-Limit header of manifests; "100;w=21600" is Docker Hub's. RateRemaining is what is left;
	// empty means all of it.
	RateLimit, RateRemaining string

	// PageSize bounds a page of tags/list; AbsoluteLinks spells the next page's URL with its host.
	PageSize      int
	AbsoluteLinks bool

	// NoReferrers answers 404 to the referrers API, as registries before 1.1 of the specification.
	NoReferrers bool

	// Body spoils the bodies of blobs, and of manifests if Manifests is true.
	Body      Body
	Manifests bool
}

// Outage spoils a host's answers as a whole. Status, HTML and Hang concern the requests that Only accepts.
type Outage struct {
	// Down resets every connection; HangAccept accepts and then says nothing, not even TLS. Connections that were open
	// before are reset at their next request.
	Down, HangAccept bool

	// Hang never answers, until the faults change.
	Hang bool

	// Status is answered to everything, with RetryAfter and Header.
	Status     int
	RetryAfter string
	Header     http.Header

	// Text is the body that goes with Status; empty means the specification's error document.
	Text string

	// HTML answers 200 with a page, as captive portals and firewalls do.
	HTML bool

	// Only limits Hang, Status and HTML to some requests; nil means all.
	Only func(*http.Request) bool

	// Times limits Hang, Status and HTML to that many requests since the last Set; 0 means no limit.
	Times int
}

// Set changes the faults. Answers that stall or hang look at them again; those that run keep what they began with.
func (r *Registry) Set(change func(*Faults)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.faults)
	clear(r.left)
	close(r.changed)
	r.changed = make(chan struct{})
}

// look returns the faults as they are, and what is closed when they change.
func (r *Registry) look() (Faults, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.faults, r.changed
}

// take reports whether a fault that happens times times since the last Set happens once more.
func (r *Registry) take(name string, times int) bool {
	if times == 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left[name]++
	return r.left[name] <= times
}

// fail answers as the host's outage says, and reports whether it did.
func (r *Registry) fail(w http.ResponseWriter, req *http.Request, host string, outage func(Faults) Outage) bool {
	faults, changed := r.look()
	o := outage(faults)
	if o.Down || o.HangAccept {
		reset(w)
	}
	if !o.Hang && !o.HTML && o.Status == 0 || o.Only != nil && !o.Only(req) || !r.take("outage of "+host, o.Times) {
		return false
	}
	for name, values := range o.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	switch {
	case o.Hang:
		r.wait(req, changed)
		panic(http.ErrAbortHandler)
	case o.HTML:
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html><body><h1>Access denied</h1></body></html>\n")
	default:
		if o.RetryAfter != "" {
			w.Header().Set("Retry-After", o.RetryAfter)
		}
		answer(w, o)
	}
	return true
}

func answer(w http.ResponseWriter, o Outage) {
	if o.Text != "" {
		w.WriteHeader(o.Status)
		_, _ = io.WriteString(w, o.Text)
		return
	}
	code := map[int]string{429: "TOOMANYREQUESTS", 401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN", 503: "UNAVAILABLE"}[o.Status]
	if code == "" {
		code = "UNKNOWN"
	}
	fail(w, o.Status, code, "as the test wants it")
}

// wait blocks until the faults change, the client leaves or the test ends.
func (r *Registry) wait(req *http.Request, changed <-chan struct{}) {
	select {
	case <-changed:
	case <-req.Context().Done():
	case <-r.done:
	}
}

// reset ends the connection with a TCP reset, without an answer.
func reset(w http.ResponseWriter) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		linger(conn)
		_ = conn.Close()
	}
	panic(http.ErrAbortHandler)
}

// linger makes the next Close of the TCP connection below conn a reset.
func linger(conn net.Conn) {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			_ = c.SetLinger(0)
			return
		case *silent:
			conn = c.Conn
		case interface{ NetConn() net.Conn }: // TLS
			conn = c.NetConn()
		default:
			return
		}
	}
}

// spoiler spoils connections before anything is said on them.
func (r *Registry) spoiler(outage func(Faults) Outage) func(net.Conn) net.Conn {
	return func(conn net.Conn) net.Conn {
		faults, changed := r.look()
		switch o := outage(faults); {
		case o.Down:
			linger(conn)
			_ = conn.Close()
		case o.HangAccept:
			return &silent{Conn: conn, until: changed, end: r.done, closed: make(chan struct{})}
		}
		return conn
	}
}

// silent is a connection on which nothing arrives until something ends it.
type silent struct {
	net.Conn
	until, end <-chan struct{}
	closed     chan struct{}
	once       sync.Once
}

func (s *silent) Read([]byte) (int, error) {
	select {
	case <-s.until:
	case <-s.end:
	case <-s.closed:
	}
	return 0, io.EOF
}

func (s *silent) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}
