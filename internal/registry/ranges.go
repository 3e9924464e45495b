package registry

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// span is a run of bytes from start up to, not including, end.
type span struct{ start, end int64 }

// contentRange is the value of the Content-Range header (RFC 9110, section 14.4).
func (s span) contentRange(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", s.start, s.end-1, size)
}

// unsatisfied is the value of the Content-Range header of a 416.
func unsatisfied(size int64) string { return "bytes */" + strconv.FormatInt(size, 10) }

// maxSpans bounds the parts of one answer. Podman asks for up to 1024 at a time; each costs us a chunk to check, however
// little of it is wanted.
const maxSpans = 2048

// errUnsatisfiable answers a range that has no byte of the blob.
var errUnsatisfiable = &oci.Error{Code: oci.CodeUnsupported, HTTPStatus: http.StatusRequestedRangeNotSatisfiable, Message: "range has no byte of the blob: see Content-Range for its size"}

// ranges returns the spans that a request asks for, none where it asks for the whole or in a way that a server is to
// ignore (RFC 9110, section 14.2): an unknown unit, bad syntax, an If-Range that does not match.
func ranges(r *http.Request, d oci.Digest, size int64) ([]span, error) {
	header := r.Header.Get("Range")
	if header == "" || size < 0 {
		return nil, nil
	}
	if ifRange := r.Header.Get("If-Range"); ifRange != "" && ifRange != `"`+string(d)+`"` {
		return nil, nil
	}
	return parseRange(header, size)
}

// parseRange parses the Range header of a request for a blob of a known size. Ranges without a byte of the blob are
// left out; if none is left the error is errUnsatisfiable. Ranges that add up to more than the blob, or are more than
// maxSpans, are answered with the whole of it, as is bad syntax.
func parseRange(header string, size int64) ([]span, error) {
	set, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return nil, nil
	}
	var spans []span
	var total int64
	for item := range strings.SplitSeq(set, ",") {
		item = strings.Trim(item, " \t")
		if item == "" {
			continue
		}
		s, ok := parseSpan(item, size)
		if !ok {
			return nil, nil
		}
		if s.start < s.end {
			spans = append(spans, s)
			total += s.end - s.start
		}
	}
	if len(spans) == 0 {
		return nil, errUnsatisfiable
	}
	if total > size || len(spans) > maxSpans {
		return nil, nil
	}
	return spans, nil
}

// parseSpan parses first-last, first- or -length. A span without a byte of the blob is returned empty.
func parseSpan(item string, size int64) (span, bool) {
	from, to, ok := strings.Cut(item, "-")
	if !ok {
		return span{}, false
	}
	if from == "" {
		n, ok := parseOffset(to)
		return span{max(size-n, 0), size}, ok
	}
	first, ok := parseOffset(from)
	if !ok {
		return span{}, false
	}
	last := size - 1
	if to != "" {
		if last, ok = parseOffset(to); !ok || last < first {
			return span{}, false
		}
	}
	return span{min(first, size), max(min(last+1, size), min(first, size))}, true
}

// parseOffset parses digits alone; what does not fit is as far away as can be.
func parseOffset(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n == 1<<63-1 {
		return 1<<63 - 2, true
	}
	return n, true
}

// wanted is what a Range header names first, as far as it can be told without the size of the blob. What goes to the
// last byte takes the whole to be verified.
func wanted(header string) store.Extent {
	set, _ := strings.CutPrefix(header, "bytes=")
	item, _, _ := strings.Cut(set, ",")
	const unknown = 1 << 62
	s, ok := parseSpan(strings.Trim(item, " \t"), unknown)
	if !ok || s.end >= unknown || s.start >= s.end {
		return store.Extent{Start: 0, End: -1}
	}
	return store.Extent{Start: s.start, End: s.end}
}
