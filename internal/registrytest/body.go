package registrytest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"container-registry-proxy/internal/oci"
)

// Body is what happens to a body on its way. Offsets count the bytes of one answer, but for CorruptAt.
type Body struct {
	// Throttle is the pace of one answer in bytes a second.
	Throttle int64

	// CutAfter ends the connection after that many bytes, cleanly: TLS and TCP are closed as if all had been said.
	// CutReset resets it instead, which may take bytes back that the client had not read.
	CutAfter int64
	CutReset bool

	// StallAfter sends nothing more after that many bytes, until the faults change; then it goes on.
	StallAfter int64

	// CorruptAt flips the bits of the byte before that position of the content: 1 is the first. The length stays right.
	CorruptAt int64

	// LengthOff is added to Content-Length.
	LengthOff int64

	// Chunked leaves Content-Length away. UntilClose does too, and the end of the connection is the end of the body.
	Chunked, UntilClose bool

	// Gzip sends the content with Content-Encoding: gzip, asked for or not.
	Gzip bool

	// HTML sends a page with status 200 instead.
	HTML bool

	// IgnoreRange answers 200 and everything to a Range.
	IgnoreRange bool

	// LyingRange spoils answers to a Range.
	LyingRange RangeLie

	// Times limits all of this to that many answers since the last Set; 0 means no limit.
	Times int
}

// RangeLie is a wrong way to answer a Range with 206.
type RangeLie int

// Lies.
const (
	NoLie        RangeLie = iota
	WrongBytes            // the right header, bytes from one position further
	OtherRange            // a Content-Range that was not asked for, and its bytes
	NoRangeShown          // no Content-Range
)

// spoiled reports whether anything would be done.
func (b Body) spoiled() bool { b.Times = 0; return b != Body{} }

// send answers with content, or with what the faults make of it. Headers that describe it have been set.
func (r *Registry) send(w http.ResponseWriter, req *http.Request, content []byte, manifest bool) {
	faults, changed := r.look()
	body := faults.Body
	if manifest && !faults.Manifests || !body.spoiled() || !r.take("body", body.Times) {
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(content))
		return
	}
	if body.HTML {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html><body><h1>Access denied</h1></body></html>\n")
		return
	}
	if at := body.CorruptAt; at > 0 && at <= int64(len(content)) {
		content = bytes.Clone(content)
		content[at-1] ^= 0xff
	}
	out := &spoiledWriter{ResponseWriter: w, body: body, wait: func() {
		r.wait(req, changed)
		if req.Context().Err() != nil { // the client is on its way out, but might still read what came now
			panic(http.ErrAbortHandler)
		}
	}}
	switch {
	case body.Gzip:
		sendGzip(out, req, content)
	case body.LyingRange != NoLie && lie(out, req, content, body.LyingRange):
	default:
		if body.IgnoreRange {
			req.Header.Del("Range")
		}
		http.ServeContent(out, req, "", time.Time{}, bytes.NewReader(content))
	}
}

func sendGzip(w http.ResponseWriter, req *http.Request, content []byte) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(content) // to memory
	_ = z.Close()
	w.Header().Set("Content-Encoding", "gzip")
	w.Header().Set("Content-Length", strconv.Itoa(packed.Len()))
	if req.Method != http.MethodHead {
		_, _ = w.Write(packed.Bytes())
	}
}

// lie answers a single range wrongly, and reports whether there was one to lie about.
func lie(w http.ResponseWriter, req *http.Request, content []byte, how RangeLie) bool {
	size := int64(len(content))
	from, to, ok := strings.Cut(strings.TrimPrefix(req.Header.Get("Range"), "bytes="), "-")
	start, err := strconv.ParseInt(from, 10, 64)
	if !ok || err != nil || start >= size {
		return false
	}
	end := size - 1
	if n, err := strconv.ParseInt(to, 10, 64); err == nil {
		end = min(n, end)
	}
	sent := content[start : end+1]
	switch how {
	case WrongBytes:
		sent = append(bytes.Clone(sent[1:]), sent[0])
	case OtherRange:
		start = (start + 1) % size
		end = min(end+1, size-1)
		sent = content[start : end+1]
	}
	if how != NoRangeShown {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, end, size))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(sent)))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(sent)
	return true
}

// spoiledWriter does to a body what Body says.
type spoiledWriter struct {
	http.ResponseWriter
	body  Body
	wait  func()
	sent  int64
	start time.Time
}

// Unwrap is for [http.ResponseController].
func (s *spoiledWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *spoiledWriter) WriteHeader(status int) {
	h := s.Header()
	if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil && s.body.LengthOff != 0 {
		h.Set("Content-Length", strconv.FormatInt(n+s.body.LengthOff, 10))
	}
	if s.body.Chunked || s.body.UntilClose {
		h.Del("Content-Length")
	}
	if s.body.UntilClose {
		h.Set("Transfer-Encoding", "identity")
	}
	s.start = time.Now()
	s.ResponseWriter.WriteHeader(status)
	if s.body.Chunked || s.body.UntilClose {
		s.flush() // or a short body would get a length after all
	}
}

// Write sends in steps, so that cuts and stalls are to the byte.
func (s *spoiledWriter) Write(b []byte) (int, error) {
	if s.start.IsZero() {
		s.WriteHeader(http.StatusOK)
	}
	for done := 0; done < len(b); {
		step := min(len(b)-done, 16<<10)
		for _, mark := range []int64{s.body.CutAfter, s.body.StallAfter} {
			if ahead := mark - s.sent; ahead > 0 {
				step = min(step, int(ahead))
			}
		}
		n, err := s.ResponseWriter.Write(b[done : done+step])
		done += n
		s.sent += int64(n)
		if err != nil {
			return done, err
		}
		s.mark()
	}
	return len(b), nil
}

// mark does what is due at the position that has been reached.
func (s *spoiledWriter) mark() {
	if s.body.CutAfter > 0 && s.sent == s.body.CutAfter {
		s.cut()
	}
	if s.body.StallAfter > 0 && s.sent == s.body.StallAfter {
		s.flush()
		s.wait()
	}
	if s.body.Throttle > 0 {
		s.flush()
		due := s.start.Add(time.Duration(float64(s.sent) / float64(s.body.Throttle) * float64(time.Second)))
		time.Sleep(time.Until(due))
	}
}

func (s *spoiledWriter) flush() { _ = http.NewResponseController(s.ResponseWriter).Flush() }

func (s *spoiledWriter) cut() {
	s.flush()
	if conn, _, err := http.NewResponseController(s.ResponseWriter).Hijack(); err == nil {
		if s.body.CutReset {
			linger(conn)
		}
		_ = conn.Close()
	}
	panic(http.ErrAbortHandler)
}

// describe sets the headers that go with content.
func (r *Registry) describe(w http.ResponseWriter, mediaType string, digest oci.Digest) {
	faults, _ := r.look()
	w.Header().Set("Content-Type", mediaType)
	switch {
	case faults.WrongDigestHeader:
		w.Header().Set("Docker-Content-Digest", string(oci.FromBytes([]byte("something else"))))
	case !faults.OmitDigestHeader:
		w.Header().Set("Docker-Content-Digest", string(digest))
	}
}
