package fill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// memStore is a store in memory, with a limit and switches that make things fail.
type memStore struct {
	limit      int64
	failAt     int64       // a write that reaches this offset fails; 0 means none
	failRead   atomic.Bool // reads of what is staged fail
	failCommit atomic.Bool
	misused    atomic.Int32 // stages that were closed twice, or used after that

	mu     sync.Mutex
	blobs  map[oci.Digest][]byte
	staged map[oci.Digest]*memStage
}

func newMemStore() *memStore {
	return &memStore{blobs: map[oci.Digest][]byte{}, staged: map[oci.Digest]*memStage{}, limit: 1 << 40}
}

type memBlob struct{ *bytes.Reader }

func (memBlob) Close() error { return nil }

func (m *memStore) Open(d oci.Digest) (store.Blob, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[d]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return memBlob{bytes.NewReader(b)}, nil
}

func (m *memStore) Stage(d oci.Digest, size int64) (store.Stage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if size > m.limit {
		return nil, store.ErrNoSpace
	}
	if s, ok := m.staged[d]; ok {
		if s.open.Swap(true) {
			return nil, fmt.Errorf("a second stage of %s: %w", d, store.ErrNoSpace)
		}
		if s.size == size {
			return s, nil
		}
	}
	s := &memStage{store: m, digest: d, size: size, data: make([]byte, 0, max(size, 0))}
	s.open.Store(true)
	m.staged[d] = s
	return s, nil
}

// Leftover is the size of a blob of which something is staged.
func (m *memStore) Leftover(d oci.Digest) (int64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.staged[d]
	if !ok {
		return 0, false
	}
	return s.size, s.size >= 0
}

func (m *memStore) holds(d oci.Digest) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.blobs[d]
}

func (m *memStore) Remove(d oci.Digest) error { return nil }
func (m *memStore) Usage() store.Usage        { return store.Usage{} }

type memStage struct {
	store  *memStore
	digest oci.Digest
	size   int64
	open   atomic.Bool
	mu     sync.Mutex
	data   []byte
	have   store.Extents
	source string
}

func (s *memStage) Source() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.source
}

func (s *memStage) SetSource(source string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.source = source
}

func (s *memStage) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check()
	if s.store.failAt > 0 && off+int64(len(p)) >= s.store.failAt {
		return 0, errors.New("injected: no space left on device")
	}
	if need := off + int64(len(p)); int64(len(s.data)) < need {
		s.data = slices.Grow(s.data, int(need)-len(s.data))[:need]
	}
	s.have.Add(off, off+int64(len(p)))
	return copy(s.data[off:], p), nil
}

func (s *memStage) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.check()
	if s.store.failRead.Load() {
		return 0, errors.New("injected: input/output error")
	}
	return bytes.NewReader(s.data).ReadAt(p, off)
}

func (s *memStage) check() {
	if !s.open.Load() {
		s.store.misused.Add(1)
	}
}

// stagedBytes is how many bytes of a digest are staged.
func (m *memStore) stagedBytes(d oci.Digest) (n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.staged[d]; s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		n = s.have.Total()
	}
	return n
}

func (s *memStage) Staged() []store.Extent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.have)
}

func (s *memStage) Commit(_ context.Context, proof store.Proof) error {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if proof.Digest() != s.digest || proof.Size() != int64(len(s.data)) {
		return fmt.Errorf("proof is for %s of %d bytes", proof.Digest(), proof.Size())
	}
	if s.store.failCommit.Load() {
		return errors.New("injected: input/output error")
	}
	s.store.blobs[s.digest] = s.data
	delete(s.store.staged, s.digest)
	return nil
}

func (s *memStage) Close() error {
	s.check()
	s.open.Store(false)
	return nil
}

func (s *memStage) Discard() error {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if s.store.staged[s.digest] == s {
		delete(s.store.staged, s.digest)
	}
	return s.Close()
}

// origin is a source with faults. It counts what leaves it.
type origin struct {
	name string
	blob []byte
	pace time.Duration // per 32 KiB
	// cut ends a body after that many bytes, the first cuts times.
	cut, cuts    int
	ignoreRanges bool
	hideSize     bool
	err          error
	shared       chan struct{} // makes all connections share one pace
	// answer, if not nil, may spoil the nth answer, the first being 1, or return an error instead of it.
	answer func(n int, start int64, d *Delivery, b *body) error

	mu      sync.Mutex
	fetches []int64 // the starts
	sent    int64
	began   time.Time
	open    int
	peaks   []time.Duration // when the n+1st connection was first open, since the first
}

// connections is how many were open at once at most, and after how long n were.
func (o *origin) connections(n int) (peak int, at time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.peaks) < n {
		return len(o.peaks), -1
	}
	return len(o.peaks), o.peaks[n-1]
}

func (o *origin) Key() string    { return o.name }
func (o *origin) Origin() string { return strings.TrimRight(o.name, "0123456789") } // a1 and a2 are one origin

func (o *origin) Fetch(ctx context.Context, start, end int64) (*Delivery, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fetches = append(o.fetches, start)
	if o.began.IsZero() {
		o.began = time.Now()
	}
	if o.err != nil {
		return nil, o.err
	}
	asked := start
	if o.ignoreRanges {
		start, end = 0, -1
	}
	if start > int64(len(o.blob)) || start == int64(len(o.blob)) && start > 0 {
		return nil, &EndError{Size: int64(len(o.blob))}
	}
	rest := o.blob[start:]
	if end >= 0 {
		rest = o.blob[start:min(end, int64(len(o.blob)))]
	}
	b := &body{origin: o, ctx: ctx, rest: rest, end: io.EOF}
	if o.cuts > 0 {
		o.cuts--
		b.rest, b.end = rest[:min(o.cut, len(rest))], errors.New("connection reset by peer")
	}
	d := &Delivery{Body: b, Start: start, Size: int64(len(o.blob)), Ranges: !o.ignoreRanges}
	if o.hideSize {
		d.Size = -1
	}
	if o.answer != nil {
		if err := o.answer(len(o.fetches), asked, d, b); err != nil {
			return nil, err
		}
	}
	if o.open++; o.open > len(o.peaks) {
		o.peaks = append(o.peaks, time.Since(o.began))
	}
	return d, nil
}

func (o *origin) seen() (fetches int, sent int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.fetches), o.sent
}

type body struct {
	origin *origin
	ctx    context.Context
	rest   []byte
	end    error
	stall  int // bytes that are left when it stalls for ever; 0 means none
	closed bool
}

func (b *body) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, b.end
	}
	if b.stall > 0 && len(b.rest) <= b.stall {
		<-b.ctx.Done()
		return 0, context.Cause(b.ctx)
	}
	if b.origin.shared != nil {
		b.origin.shared <- struct{}{}
		defer func() { <-b.origin.shared }()
	}
	select {
	case <-time.After(b.origin.pace):
	case <-b.ctx.Done():
		return 0, context.Cause(b.ctx)
	}
	n := copy(p[:min(len(p), 32<<10, max(len(b.rest)-b.stall, 1))], b.rest)
	b.rest = b.rest[n:]
	b.origin.mu.Lock()
	b.origin.sent += int64(n)
	b.origin.mu.Unlock()
	return n, nil
}

func (b *body) Close() error {
	b.origin.mu.Lock()
	defer b.origin.mu.Unlock()
	if !b.closed {
		b.closed = true
		b.origin.open--
	}
	return nil
}

func randomBlob(size int) ([]byte, oci.Digest) {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)})
	_, _ = r.Read(b)
	return b, oci.FromBytes(b)
}

func read(ctx context.Context, f *Fills, d oci.Digest, src Source, start, end int64) ([]byte, error) {
	want := store.Extent{Start: start, End: end}
	r, _, err := f.Join(ctx, d, src, want)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return drain(r.Range(start, end), r.Size())
}

// drain is io.ReadAll for what is likely to be that large.
func drain(r io.Reader, size int64) ([]byte, error) {
	b := make([]byte, 0, max(size, 1<<20)+1)
	for {
		b = slices.Grow(b, 1)
		n, err := r.Read(b[len(b):min(len(b)+32<<10, cap(b))])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}
