package fill

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/upstream"
)

// rig is what fills are made of in the program: a registry, real sockets, TLS, and a disk.
type rig struct {
	*registrytest.Registry
	client *upstream.Client
	store  *disk.Store
}

func newRig(t testing.TB, faults registrytest.Faults, change ...func(*upstream.Config)) *rig {
	t.Helper()
	reg := registrytest.New(t, registrytest.Config{Faults: faults})
	cfg := upstream.Config{
		Dialer:      dial.New(dial.Config{Resolver: reg.World, AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}),
		TLS:         &tls.Config{RootCAs: reg.Pool()},
		ReadTimeout: 20 * time.Second,
	}
	for _, c := range change {
		c(&cfg)
	}
	s, err := disk.Open(disk.Config{Directory: t.TempDir(), MaxSize: 8 << 30})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Registry: reg, client: upstream.New(cfg), store: s}
	t.Cleanup(func() {
		r.client.CloseIdleConnections()
		_ = s.Close()
	})
	return r
}

// source asks the rig's registry for a blob, as package cache does.
type source struct {
	rig *rig
	d   oci.Digest
}

func (s source) Key() string    { return "rig" }
func (s source) Origin() string { return "rig" }

func (s source) Fetch(ctx context.Context, start, end int64) (*Delivery, error) {
	header := http.Header{}
	if end >= 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", start, end-1))
	} else if start > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", start))
	}
	resp, err := s.rig.client.Do(ctx, upstream.Request{
		Method: http.MethodGet, Registry: s.rig.Name(), Path: "/v2/app/blobs/" + string(s.d), Header: header,
	})
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return &Delivery{Body: resp.Body, Size: resp.ContentLength, Ranges: resp.Header.Get("Accept-Ranges") == "bytes"}, nil
	case http.StatusPartialContent:
		span, total, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "/")
		first, _, _ := strings.Cut(span, "-")
		at, err1 := strconv.ParseInt(first, 10, 64)
		size, err2 := strconv.ParseInt(total, 10, 64)
		if err := errors.Join(err1, err2); err != nil || at != start {
			_ = resp.Body.Close()
			return nil, fmt.Errorf("206 with Content-Range %q", resp.Header.Get("Content-Range"))
		}
		return &Delivery{Body: resp.Body, Start: at, Size: size, Ranges: true}, nil
	}
	refusal := upstream.NewRefusal(resp)
	if !refusal.Temporary() {
		return nil, permanentError{refusal}
	}
	return nil, refusal
}

// breaking is a source whose first delivery breaks off after so many bytes.
type breaking struct {
	source
	after int64
	then  func()
}

func (s *breaking) Fetch(ctx context.Context, start, end int64) (*Delivery, error) {
	d, err := s.source.Fetch(ctx, start, end)
	if err == nil && s.after > 0 {
		d.Body = &brokenBody{ReadCloser: d.Body, left: s.after, then: s.then}
		s.after = 0
	}
	return d, err
}

type brokenBody struct {
	io.ReadCloser
	left int64
	then func()
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		b.then()
		return 0, errors.New("connection reset by peer")
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// stored is what the store holds of d, nil if that is nothing.
func (r *rig) stored(t *testing.T, d oci.Digest) []byte {
	t.Helper()
	blob, err := r.store.Open(d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	b := make([]byte, blob.Size())
	if n, err := blob.ReadAt(b, 0); n < len(b) {
		t.Fatal(err)
	}
	return b
}

// What a registry, its CDN and the network between may do to a body: what the client sees, what upstream has sent, and
// what is on disk.
func TestFaultsOfABody(t *testing.T) {
	t.Parallel()
	const size, at = 3 << 20, 1 << 20
	const once, always = 1, 0
	for name, tc := range map[string]struct {
		body  registrytest.Body
		fails bool  // the first client; the next one succeeds once the fault is gone
		twice int64 // bytes that upstream cannot help sending twice
	}{
		"nothing":                         {body: registrytest.Body{}},
		"truncated":                       {body: registrytest.Body{CutAfter: at, Times: once}},
		"reset":                           {body: registrytest.Body{CutAfter: at, CutReset: true, Times: once}, twice: size},
		"cut every megabyte":              {body: registrytest.Body{CutAfter: at, Times: 2}},
		"cut, the length not named":       {body: registrytest.Body{CutAfter: at, Chunked: true, Times: once}},
		"chunked":                         {body: registrytest.Body{Chunked: true, Times: once}},
		"stalled":                         {body: registrytest.Body{StallAfter: at, Times: once}},
		"shorter than announced":          {body: registrytest.Body{LengthOff: 1000, Times: always}, fails: true, twice: size},
		"longer than announced":           {body: registrytest.Body{LengthOff: -1000, Times: always}, fails: true, twice: size},
		"another byte":                    {body: registrytest.Body{CorruptAt: size / 2, Times: once}, fails: true, twice: size},
		"another last byte":               {body: registrytest.Body{CorruptAt: size, Times: once}, fails: true, twice: size},
		"a page":                          {body: registrytest.Body{HTML: true, Times: once}, fails: true},
		"packed":                          {body: registrytest.Body{Gzip: true, Times: once}, fails: true, twice: 2 * size},
		"cut for ever at the same length": {body: registrytest.Body{CutAfter: 100_000, Times: always}, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, registrytest.Faults{Redirect: http.StatusTemporaryRedirect}, func(c *upstream.Config) { c.ReadTimeout = time.Second })
			blob, d := randomBlob(size)
			r.PutBlob("app", blob)
			r.Set(func(f *registrytest.Faults) { f.Body = tc.body })
			f := New(Config{Store: r.store, Backoff: time.Millisecond})
			got, err := read(t.Context(), f, d, source{r, d}, 0, -1)
			switch {
			case tc.fails && (err == nil || len(got) >= size):
				t.Errorf("the client got %d bytes, %v, and must not take them for the blob", len(got), err)
			case !tc.fails && (err != nil || !bytes.Equal(got, blob)):
				t.Errorf("the client got %d bytes, %v", len(got), err)
			}
			if tc.fails && r.stored(t, d) != nil {
				t.Error("what was no blob is in the store")
			}
			r.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
			if got, err := read(t.Context(), f, d, source{r, d}, 0, -1); err != nil || !bytes.Equal(got, blob) {
				t.Errorf("the next client got %d bytes, %v", len(got), err)
			}
			f.Close()
			if !bytes.Equal(r.stored(t, d), blob) {
				t.Error("the blob is not in the store")
			}
			if sent := r.BlobBytes(d); sent > size+tc.twice+at {
				t.Errorf("upstream sent %d bytes of %d", sent, size)
			}
		})
	}
}

// What may be wrong with the answer to the question for the rest.
func TestFaultsOfTheRest(t *testing.T) {
	t.Parallel()
	const size, at = 3 << 20, 1 << 20
	for name, tc := range map[string]struct {
		body  registrytest.Body
		fails bool
	}{
		"the whole":              {body: registrytest.Body{IgnoreRange: true}},
		"a page":                 {body: registrytest.Body{HTML: true}},
		"packed":                 {body: registrytest.Body{Gzip: true}},
		"another range":          {body: registrytest.Body{LyingRange: registrytest.OtherRange}},
		"no range shown":         {body: registrytest.Body{LyingRange: registrytest.NoRangeShown}},
		"the range before it":    {body: registrytest.Body{LyingRange: registrytest.WrongBytes}, fails: true},
		"a cut before any of it": {body: registrytest.Body{CutAfter: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, registrytest.Faults{})
			blob, d := randomBlob(size)
			r.PutBlob("app", blob)
			odd := tc.body
			odd.Times = 1
			f := New(Config{Store: r.store, Backoff: 5 * time.Millisecond})
			got, err := read(t.Context(), f, d, &breaking{source{r, d}, at, func() {
				r.Set(func(f *registrytest.Faults) { f.Body = odd })
			}}, 0, -1)
			switch {
			case tc.fails && err == nil:
				t.Errorf("the client got %d bytes and no error", len(got))
			case !tc.fails && (err != nil || !bytes.Equal(got, blob)):
				t.Errorf("the client got %d bytes, %v", len(got), err)
			}
			if got, err := read(t.Context(), f, d, source{r, d}, 0, -1); err != nil || !bytes.Equal(got, blob) {
				t.Errorf("the next client got %d bytes, %v", len(got), err)
			}
			f.Close()
			if !bytes.Equal(r.stored(t, d), blob) {
				t.Error("the blob is not in the store")
			}
		})
	}
}
