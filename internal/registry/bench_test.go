package registry_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// nowhere is a client that takes all and keeps nothing.
type nowhere struct {
	header http.Header
	status int
	bytes  int64
}

func (n *nowhere) Header() http.Header    { return n.header }
func (n *nowhere) WriteHeader(status int) { n.status = status }
func (n *nowhere) Flush()                 {}

func (n *nowhere) Write(p []byte) (int, error) {
	n.bytes += int64(len(p))
	return len(p), nil
}

// BenchmarkHit is what the handler and all below it, down to the disk, cost a request that is answered from the cache:
// no sockets, no TLS, and a record that nobody writes.
func BenchmarkHit(b *testing.B) {
	r := registrytest.New(b, registrytest.Config{})
	large := r.PutBlob(repo, registrytest.Bytes(90, 64<<20))
	img := r.PushImage(repo, "1", registrytest.Bytes(91, 10), registrytest.Bytes(92, 11), registrytest.Bytes(93, 12), registrytest.Bytes(94, 13),
		registrytest.Bytes(95, 14), registrytest.Bytes(96, 15), registrytest.Bytes(97, 16), registrytest.Bytes(98, 17), registrytest.Bytes(99, 18))
	h := plan{world: r.World, freshFor: time.Hour}.build(b)
	h.get(r, manifest(repo, "1"), acceptAll).is(b, 200, nil)
	h.get(r, blob(repo, large)).is(b, 200, nil)
	h.get(r, blob(repo, img.Config.Digest)).is(b, 200, nil)
	eventually(b, "all is committed", func() bool { return h.cache.Fills() == 0 })
	h = h.again() // what is known comes from the disk
	handler := accesslog.New(accesslog.Config{}).Handler(h.inner)
	for _, bench := range []struct {
		name, method, path string
		size               int64
		headers            []string
	}{
		{"blob 64 MiB", "GET", blob(repo, large), 64 << 20, nil},
		{"blob 64 KiB of 64 MiB", "GET", blob(repo, large), 64 << 10, []string{"Range: bytes=1048576-1114111"}},
		{"config", "GET", blob(repo, img.Config.Digest), img.Config.Size, nil},
		{"manifest by digest", "GET", manifest(repo, string(img.Digest)), img.Size, []string{acceptAll}},
		{"manifest by tag", "GET", manifest(repo, "1"), img.Size, []string{acceptAll}},
		{"head of a tag", "HEAD", manifest(repo, "1"), 0, []string{acceptAll}},
		{"head of a blob", "HEAD", blob(repo, large), 0, nil},
	} {
		b.Run(bench.name, func(b *testing.B) {
			req := bare(r, bench.method, bench.path, bench.headers)
			asked := len(r.Requests())
			b.SetBytes(bench.size)
			b.ReportAllocs()
			for b.Loop() {
				w := &nowhere{header: http.Header{}}
				handler.ServeHTTP(w, req)
				if w.status != 200 && w.status != 206 || w.bytes != bench.size {
					b.Fatalf("status %d with %d bytes, want %d", w.status, w.bytes, bench.size)
				}
			}
			if n := len(r.Requests()) - asked; n != 0 {
				b.Errorf("%d requests reached the registry", n)
			}
		})
	}
}

// bare is a request as net/http would have read it, and the front door handed it on.
func bare(r host, method, path string, headers []string) *http.Request {
	reg, err := oci.ParseRegistry(r.Host())
	if err != nil {
		panic(err) // the fake's own name
	}
	u, err := url.Parse(path)
	if err != nil {
		panic(err) // the test's own path
	}
	req := &http.Request{Method: method, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Host: r.Host()}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	return req.WithContext(oci.NewContext(req.Context(), reg))
}
