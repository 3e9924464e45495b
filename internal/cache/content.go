package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"

	"container-registry-proxy/internal/fill"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// Content is the answer to a pull: a descriptor and a body. The caller closes it.
type Content struct {
	// Descriptor names the content. Its size is -1 where a registry does not say; its media type is empty for a blob; its
	// digest is empty for a manifest that passes through and whose registry names none.
	Descriptor oci.Descriptor
	Outcome    Outcome
	// Tier is the manifest cache's tier that a tag fell into; empty otherwise.
	Tier string
	// Notes are the registry's remarks about an answer that comes from it: warnings and rate limits. Not to be changed.
	Notes http.Header
	// Body is nil for a HEAD that is not answered from the cache.
	Body Body
}

// Body gives out the bytes of an answer.
type Body interface {
	// Range reads the bytes from start up to end, -1 meaning the last one. Its Read may wait for a fill in progress;
	// an error other than io.EOF means that what was read so far must not be taken for the whole.
	Range(start, end int64) io.Reader
	// Verified reports whether all bytes are known to be the digest's.
	Verified() bool
	// Await waits until they are, or returns why they never will be.
	Await() error
	Close() error
}

// Close releases what the content holds.
func (c *Content) Close() error {
	if c.Body != nil {
		return c.Body.Close()
	}
	return nil
}

// notes are the headers of a registry's answer that are about it, not about what it answers.
func notes(header http.Header) http.Header {
	var out http.Header
	for _, name := range []string{"Warning", "Ratelimit-Limit", "Ratelimit-Remaining", "Docker-Ratelimit-Source"} {
		if values := header.Values(name); len(values) > 0 {
			if out == nil {
				out = http.Header{}
			}
			out[name] = values
		}
	}
	return out
}

// memoryBody is a small object in memory.
type memoryBody []byte

func (b memoryBody) Range(start, end int64) io.Reader {
	if end < 0 {
		end = int64(len(b))
	}
	return bytes.NewReader(b[start:end])
}

func (memoryBody) Verified() bool { return true }
func (memoryBody) Await() error   { return nil }
func (memoryBody) Close() error   { return nil }

// blobBody is a blob of the store. If its file turns out to be damaged, it goes on with what refill returns, from the
// byte where it stopped: what was given out before was checked.
type blobBody struct {
	blob   store.Blob
	refill func() (Body, error)
	other  Body // what refill returned
}

func (b *blobBody) Verified() bool { return true }
func (b *blobBody) Await() error   { return nil }

func (b *blobBody) Close() error {
	if b.other != nil {
		_ = b.other.Close()
	}
	return b.blob.Close()
}

func (b *blobBody) Range(start, end int64) io.Reader {
	if end < 0 {
		end = b.blob.Size()
	}
	return &blobSection{body: b, at: start, end: end}
}

type blobSection struct {
	body    *blobBody
	at, end int64
	other   io.Reader
}

func (s *blobSection) Read(p []byte) (int, error) {
	if s.other != nil {
		return s.other.Read(p)
	}
	if s.at == s.end {
		return 0, io.EOF
	}
	n, err := s.body.blob.ReadAt(p[:min(int64(len(p)), s.end-s.at)], s.at)
	s.at += int64(n)
	switch {
	case n > 0:
		return n, nil
	case err == io.EOF: // shorter than it was
		return 0, io.ErrUnexpectedEOF
	case !errors.Is(err, store.ErrDamaged):
		return 0, err
	}
	if s.body.other == nil {
		if s.body.other, err = s.body.refill(); err != nil {
			return 0, err
		}
	}
	s.other = s.body.other.Range(s.at, s.end)
	return s.other.Read(p)
}

// passage is the body of a manifest that is too large to be kept. Where its digest is known its end is withheld until
// the bytes are verified, as for all that passes through.
func passage(ctx context.Context, m *manifest) (Body, error) {
	if m.Digest == "" {
		return stream{m.rest}, nil
	}
	return fill.Pass(ctx, m.Digest, &delivered{fill.Delivery{Body: m.rest, Size: m.Size}})
}

// delivered is a source whose one delivery has begun already.
type delivered struct{ delivery fill.Delivery }

func (d *delivered) Key() string    { return "" }
func (d *delivered) Origin() string { return "" }

func (d *delivered) Fetch(context.Context, int64, int64) (*fill.Delivery, error) {
	if d.delivery.Body == nil {
		return nil, errors.New("delivered once only")
	}
	delivery := d.delivery
	d.delivery.Body = nil
	return &delivery, nil
}

// stream is a body whose bytes have no name to be checked against. It can be read once, from its beginning.
type stream struct{ io.ReadCloser }

func (s stream) Range(_, _ int64) io.Reader { return s }
func (stream) Verified() bool               { return true }
func (stream) Await() error                 { return nil }

// joinedBody is a body whose beginning has been read already.
type joinedBody struct {
	io.Reader
	io.Closer
}
