package cache

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// Content is the answer to a pull: a descriptor and a body, or a registry's response that passes through. The caller
// closes it.
type Content struct {
	// Descriptor names the content. Its size is -1 where a blob's registry does not say; its media type is empty for a
	// blob.
	Descriptor oci.Descriptor
	Outcome    Outcome
	// Tier is the manifest cache's tier that a tag fell into; empty otherwise.
	Tier string
	// Body is nil for a HEAD.
	Body Body
	// Passed is the registry's own response, to be passed on as it is; nothing else is set but Outcome.
	Passed *http.Response
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
	if c.Passed != nil {
		return c.Passed.Body.Close()
	}
	if c.Body != nil {
		return c.Body.Close()
	}
	return nil
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
	if errors.Is(err, store.ErrDamaged) {
		if s.body.other == nil {
			if s.body.other, err = s.body.refill(); err != nil {
				return 0, err
			}
		}
		s.other = s.body.other.Range(s.at, s.end)
		return s.other.Read(p)
	}
	s.at += int64(n)
	if n > 0 {
		return n, nil
	}
	return 0, err
}
