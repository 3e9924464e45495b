package registry

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRange(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, header string
		size         int64
		want         []span
		unsatisfied  bool
	}{
		{"dockerd and containerd resume", "bytes=600-", 1000, []span{{600, 1000}}, false},
		{"SOCI's probe", "bytes=0-1", 1000, []span{{0, 2}}, false},
		{"a suffix", "bytes=-10", 1000, []span{{990, 1000}}, false},
		{"a suffix longer than the blob", "bytes=-2000", 1000, []span{{0, 1000}}, false},
		{"podman's zstd:chunked", "bytes=10-19, 40-49,990-", 1000, []span{{10, 20}, {40, 50}, {990, 1000}}, false},
		{"an end past the last byte", "bytes=990-5000", 1000, []span{{990, 1000}}, false},
		{"the last byte", "bytes=999-999", 1000, []span{{999, 1000}}, false},
		{"first byte past the end", "bytes=1000-", 1000, nil, true},
		{"one of two past the end", "bytes=0-0,2000-", 1000, []span{{0, 1}}, false},
		{"an empty suffix", "bytes=-0", 1000, nil, true},
		{"any range of the empty blob", "bytes=0-", 0, nil, true},
		{"an offset too large for 64 bits", "bytes=99999999999999999999-", 1000, nil, true},
		{"ranges that repeat the blob", "bytes=0-999,0-999", 1000, nil, false},
		{"backwards", "bytes=5-4", 1000, nil, false},
		{"another unit", "lines=1-2", 1000, nil, false},
		{"a sign", "bytes=+1-2", 1000, nil, false},
		{"no digits", "bytes=-", 1000, nil, false},
	} {
		got, err := parseRange(tc.header, tc.size)
		if (err != nil) != tc.unsatisfied {
			t.Errorf("%s: parseRange(%q, %d): error %v, want unsatisfiable: %t", tc.name, tc.header, tc.size, err, tc.unsatisfied)
		}
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(span{})); diff != "" {
			t.Errorf("%s: parseRange(%q, %d): (-want +got)\n%s", tc.name, tc.header, tc.size, diff)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-1,5-,-7", int64(100))
	f.Add("bytes=-9223372036854775807", int64(1))
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		spans, err := parseRange(header, size)
		if err != nil && spans != nil {
			t.Fatalf("parseRange(%q, %d) = %v and %v", header, size, spans, err)
		}
		var total int64
		for _, s := range spans {
			if s.start < 0 || s.start >= s.end || s.end > size {
				t.Fatalf("parseRange(%q, %d): span %+v is not within the blob", header, size, s)
			}
			total += s.end - s.start
		}
		if total > size {
			t.Fatalf("parseRange(%q, %d): %d bytes in all", header, size, total)
		}
	})
}
