package disk

import (
	"os"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store/storetest"
)

// filled is a directory that an earlier process has left, with many small blobs and a large one.
func filled(t *testing.T) (dir string, digests []oci.Digest) {
	t.Helper()
	dir = t.TempDir()
	s, err := Open(Config{Directory: dir, MaxSize: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		digests = append(digests, storetest.Put(t, s, storetest.Bytes(uint64(i), 1000+i)))
	}
	digests = append(digests, storetest.Put(t, s, storetest.Bytes(1000, 3*small+1)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, digests
}

func reopen(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(Config{Directory: dir, MaxSize: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (s *Store) isPartial() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.partial
}

func TestHitsDoNotWaitForTheIndex(t *testing.T) {
	t.Parallel()
	dir, digests := filled(t)
	s := reopen(t, dir)
	for _, i := range []int{7, 200, 7, 3} {
		b, err := s.Open(digests[i])
		if err != nil {
			t.Fatal(err)
		}
		if b.Size() < 1000 {
			t.Errorf("%d bytes", b.Size())
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if why := s.Degraded(); why != "" || !s.isPartial() { // and whoever asks whether the proxy is ready does not wait either
		t.Errorf("degraded %q, or somebody has read the whole index", why)
	}
	if u := s.Usage(); u.Blobs != len(digests) {
		t.Errorf("%d blobs, want %d", u.Blobs, len(digests))
	}
	if err := s.Audit(); err != nil {
		t.Error(err)
	}
	if newest := s.order.small.last; newest.digest != digests[3] && newest.digest != digests[7] && newest.digest != digests[200] {
		t.Errorf("%s is taken to have been used last", newest.digest)
	}
}

// What is found to be gone before the index has been read does not come back with it.
func TestWhatIsGoneStaysGone(t *testing.T) {
	t.Parallel()
	dir, digests := filled(t)
	s := reopen(t, dir)
	if err := os.Remove(s.dir.blob(digests[5])); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.dir.blob(digests[6])+"x", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.dir.blob(digests[6])+"x", s.dir.blob(digests[6])); err != nil {
		t.Fatal(err)
	}
	for _, d := range digests[5:7] {
		if _, err := s.Open(d); err == nil {
			t.Errorf("%s can be opened", d)
		}
	}
	if u := s.Usage(); u.Blobs != len(digests)-2 {
		t.Errorf("%d blobs, want %d", u.Blobs, len(digests)-2)
	}
	if err := s.Audit(); err != nil {
		t.Error(err)
	}
}

// Hits, misses, fills and removals while the index is being read.
func TestAllAtOnceAfterAStart(t *testing.T) {
	t.Parallel()
	dir, digests := filled(t)
	s := reopen(t, dir)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := i; j < len(digests); j += 2 {
				switch b, err := s.Open(digests[j]); {
				case err == nil:
					_ = b.Close()
				case j != 42:
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		if err := s.Remove(digests[42]); err != nil {
			t.Error(err)
		}
	})
	all.Go(func() { storetest.Put(t, s, storetest.Bytes(2000, 500)) })
	all.Go(func() {
		if _, err := s.Open(oci.FromBytes([]byte("nobody has this"))); err == nil {
			t.Error("what is not there can be opened")
		}
	})
	all.Wait()
	if u := s.Usage(); u.Blobs != len(digests) { // one less, one more
		t.Errorf("%d blobs, want %d", u.Blobs, len(digests))
	}
	if err := s.Audit(); err != nil {
		t.Error(err)
	}
}

// The reserved free space may have to be made before the index has been read. What was used since the start is the last to
// go, and that others can go is known.
func TestNothingIsEvictedBeforeTheIndexIsRead(t *testing.T) {
	t.Parallel()
	for name, uses := range map[string]int{"nothing was used": 0, "some were used": 20} {
		dir, digests := filled(t)
		s := reopen(t, dir)
		used := digests[:uses]
		for _, d := range used {
			b, err := s.Open(d)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
		free, err := s.free()
		if err != nil {
			t.Fatal(err)
		}
		s.cfg.MinFree = free + 10*blockSize
		s.upkeep()
		if why := s.Degraded(); why != "" {
			t.Errorf("%s: %s", name, why)
		}
		for _, d := range used {
			if _, err := os.Stat(s.dir.blob(d)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := s.Audit(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A hit waits for no more than a part of the reading, whatever is written to the database meanwhile.
func TestReadingTheIndexHoldsUpNoHit(t *testing.T) { // not parallel: it measures time
	dir := t.TempDir()
	manyBlobs(t, dir, 50_000, false)
	for range 3 { // the machine may be busy
		longest, all := readBesideHits(t, dir)
		t.Logf("the index was read in %v, a hit has waited for %v", all, longest)
		if longest < all/2 {
			return
		}
	}
	t.Error("hits wait for the index")
}

// readBesideHits returns how long the longest hit took while the index was read, and how long that took.
func readBesideHits(t *testing.T, dir string) (longest, all time.Duration) {
	t.Helper()
	s := reopen(t, dir)
	defer s.Close()
	begun, read := time.Now(), make(chan time.Duration, 1)
	go func() {
		s.loaded()
		read <- time.Since(begun)
	}()
	for {
		start := time.Now()
		s.db.Put("others", "key", nil)
		e := s.lookup(oci.FromBytes(manyBlob(7)))
		if e == nil {
			t.Fatal("a blob is not there")
		}
		longest = max(longest, time.Since(start))
		s.closed(e)
		select {
		case all = <-read:
			return longest, all
		case <-time.After(100 * time.Microsecond):
		}
	}
}
