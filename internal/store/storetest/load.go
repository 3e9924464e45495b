package storetest

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

func testTooLarge(t *testing.T, opener Opener) {
	s := opener(t, 4<<20)()
	kept := Bytes(1, 1<<20)
	Put(t, s, kept)
	large := Bytes(2, 5<<20)
	if _, err := s.Stage(oci.FromBytes(large), int64(len(large))); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("stage of more than the limit: %v", err)
	}
	st, err := s.Stage(oci.FromBytes(large), -1)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; err == nil && at < len(large); at += 100_000 {
		_, err = st.WriteAt(large[at:min(at+100_000, len(large))], int64(at))
	}
	if !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("write of more than the limit: %v", err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	if u := s.Usage(); u.Staged != 0 || u.Bytes > u.Limit {
		t.Errorf("usage %+v", u)
	}
	Put(t, s, Bytes(3, 1<<20))
}

// A large blob that has been promised all there is gets it, whoever asks for a little meanwhile.
func testPromised(t *testing.T, opener Opener) {
	s := opener(t, 4<<20)()
	kept := Bytes(1, 1<<20)
	Put(t, s, kept)
	var large store.Stage
	for size := int64(4 << 20); large == nil; size -= 4 << 10 {
		var err error
		if large, err = s.Stage(oci.FromBytes([]byte("large")), size); err != nil && !errors.Is(err, store.ErrNoSpace) {
			t.Fatal(err)
		}
	}
	small := Bytes(2, 4<<10)
	if _, err := s.Stage(oci.FromBytes(small), int64(len(small))); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("stage of a small blob for which there is no room: %v", err)
	}
	Wants(t, s, kept)
	if err := large.Close(); err != nil {
		t.Error(err)
	}
	if u := s.Usage(); u.Staged != 0 {
		t.Errorf("usage %+v", u)
	}
	Put(t, s, small)
}

// Whatever is put, no more than the limit is kept, the newest is there, and what is open is not disturbed.
func testLimit(t *testing.T, opener Opener) {
	open := opener(t, 8<<20)
	s := open()
	opened := Bytes(1000, 1<<20)
	b, err := s.Open(Put(t, s, opened))
	if err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		if u := s.Usage(); u.Bytes+u.Staged > u.Limit || u.Degraded != "" {
			t.Fatalf("usage %+v", u)
		}
	}
	for i := range 40 {
		data := Bytes(uint64(i), 200_000+i*10_000)
		st := Stage(t, s, data)
		for at := 0; at < len(data); at += 50_000 {
			Write(t, st, data, at, min(at+50_000, len(data)))
			check()
		}
		if i%5 == 4 {
			_ = st.Close() // leave it
			check()
			continue
		}
		if err := errors.Join(st.Commit(t.Context(), Prove(t, data)), st.Close()); err != nil {
			t.Fatal(err)
		}
		check()
		Wants(t, s, data)
		WantsBytes(t, b, opened)
	}
	if u := s.Usage(); u.Bytes < u.Limit/2 {
		t.Errorf("more was evicted than needed: usage %+v", u)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	check()
}

// Any number of callers, a few digests, and a limit that holds half of them: whoever gets a blob gets its bytes.
func testConcurrent(t *testing.T, opener Opener) {
	open := opener(t, 4<<20)
	s := open()
	const blobs = 16
	var data [blobs][]byte
	for i := range data {
		data[i] = Bytes(uint64(i), 300_000+i*20_000)
	}
	var staging [blobs]sync.Mutex // one stage a digest is the caller's business
	seeds := Seeded(t)
	var wg sync.WaitGroup
	for range 8 {
		r := rand.New(rand.NewPCG(seeds.Uint64(), 0))
		wg.Go(func() {
			for range 150 {
				i := r.IntN(blobs)
				switch r.IntN(8) {
				case 0:
					if err := s.Remove(oci.FromBytes(data[i])); err != nil {
						t.Errorf("remove: %v", err)
					}
				case 1, 2, 3:
					staging[i].Lock()
					if _, err := TryPut(t, s, data[i]); err != nil && !errors.Is(err, store.ErrNoSpace) {
						t.Errorf("put: %v", err)
					}
					staging[i].Unlock()
				default:
					b, err := s.Open(oci.FromBytes(data[i]))
					if errors.Is(err, fs.ErrNotExist) {
						continue
					}
					if err != nil {
						t.Errorf("open: %v", err)
						continue
					}
					WantsBytes(t, b, data[i])
					_ = b.Close()
				}
				if u := s.Usage(); u.Bytes+u.Staged > u.Limit {
					t.Errorf("usage %+v", u)
				}
			}
		})
	}
	wg.Wait()
	before := s.Usage()
	after := open().Usage()
	if before.Bytes != after.Bytes || before.Blobs != after.Blobs {
		t.Errorf("before a restart %+v, after it %+v", before, after)
	}
	for i := range data {
		b, err := s.Open(oci.FromBytes(data[i]))
		if err == nil {
			WantsBytes(t, b, data[i])
			_ = b.Close()
		}
	}
}
