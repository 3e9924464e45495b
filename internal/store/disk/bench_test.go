package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/store/storetest"
)

// many is how many blobs a large cache has.
const many = 100_000

// manyBlob is the i-th of many: 8 bytes.
func manyBlob(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }

// manyBlobs fills a directory with records of many blobs, and with their files if wanted.
func manyBlobs(t testing.TB, dir string, many int, files bool) {
	t.Helper()
	s, err := Open(Config{Directory: dir, MaxSize: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	for i := range many {
		d := oci.FromBytes(manyBlob(i))
		e := entry{digest: d, size: 8, used: time.Now().Unix()}
		s.db.Put(bucketBlobs, string(d), e.record())
		s.db.Put(bucketSums, string(d), encodeSums([]uint64{store.Sum(manyBlob(i))}))
		if !files {
			continue
		}
		path := s.dir.blob(d)
		err := os.WriteFile(path, manyBlob(i), 0o444)
		if errors.Is(err, os.ErrNotExist) {
			err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, manyBlob(i), 0o444))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A blob costs less than 300 bytes of memory with what the metadata keeps of it; here it may take 220.
func TestMemoryOfManyBlobs(t *testing.T) {
	const many = 20_000
	dir := t.TempDir()
	manyBlobs(t, dir, many, false)
	before := heap()
	s, err := Open(Config{Directory: dir, MaxSize: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	s.loaded()
	each := float64(heap()-before) / many
	t.Logf("%.0f bytes a blob", each)
	if blobs := s.Usage().Blobs; blobs != many {
		t.Errorf("%d blobs", blobs)
	}
	if each > 220 {
		t.Errorf("%.0f bytes a blob", each)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkOpenManyBlobs is a restart with 100,000 blobs on the disk, up to the first hit.
func BenchmarkOpenManyBlobs(b *testing.B) {
	dir := b.TempDir()
	manyBlobs(b, dir, many, true)
	before := heap()
	var memory float64
	for b.Loop() {
		s, err := Open(Config{Directory: dir, MaxSize: 1 << 40})
		if err != nil {
			b.Fatal(err)
		}
		blob, err := s.Open(oci.FromBytes(manyBlob(many / 2)))
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := blob.Close(); err != nil {
			b.Fatal(err)
		}
		s.loaded()
		memory = float64(heap()-before) / many
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(memory, "B/blob")
}

// BenchmarkSurveyManyBlobs is the walk of the directory, which nobody waits for: with the index, and with it lost.
func BenchmarkSurveyManyBlobs(b *testing.B) {
	for _, lost := range []bool{false, true} {
		b.Run(fmt.Sprintf("lost=%v", lost), func(b *testing.B) {
			dir := b.TempDir()
			manyBlobs(b, dir, many, true)
			for b.Loop() {
				b.StopTimer()
				if lost {
					if err := os.Remove(filepath.Join(dir, "metadata.db")); err != nil {
						b.Fatal(err)
					}
				}
				s, err := Open(Config{Directory: dir, MaxSize: 1 << 40})
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				s.survey(b.Context())
				b.StopTimer()
				if blobs := s.Usage().Blobs; blobs != many {
					b.Fatalf("%d blobs", blobs)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkHit opens a blob, reads all of it in buffers of 256 KiB, and closes it.
func BenchmarkHit(b *testing.B) {
	for _, size := range []int{2 << 10, 64 << 10, 1 << 20, 64 << 20} {
		b.Run(fmt.Sprintf("%d KiB", size>>10), func(b *testing.B) {
			s, err := Open(Config{Directory: b.TempDir(), MaxSize: 1 << 40})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			d := storetest.Put(b, s, storetest.Bytes(1, size))
			buffer := make([]byte, 256<<10)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				blob, err := s.Open(d)
				if err != nil {
					b.Fatal(err)
				}
				for at := 0; at < size; at += len(buffer) {
					if _, err := blob.ReadAt(buffer[:min(len(buffer), size-at)], int64(at)); err != nil {
						b.Fatal(err)
					}
				}
				if err := blob.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkUnchecked is BenchmarkHit of 64 MiB without a store: what checking costs is the difference.
func BenchmarkUnchecked(b *testing.B) {
	const size = 64 << 20
	path := filepath.Join(b.TempDir(), "file")
	if err := os.WriteFile(path, storetest.Bytes(1, size), 0o600); err != nil {
		b.Fatal(err)
	}
	buffer := make([]byte, 256<<10)
	b.SetBytes(size)
	for b.Loop() {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		for at := 0; at < size; at += len(buffer) {
			if _, err := f.ReadAt(buffer, int64(at)); err != nil {
				b.Fatal(err)
			}
		}
		_ = f.Close()
	}
}

// BenchmarkStage writes and commits blobs, from four goroutines.
func BenchmarkStage(b *testing.B) {
	for _, size := range []int{2 << 10, 16 << 20} {
		b.Run(fmt.Sprintf("%d KiB", size>>10), func(b *testing.B) {
			s, err := Open(Config{Directory: b.TempDir(), MaxSize: 256 << 20})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			b.SetBytes(int64(4 * size))
			b.ReportAllocs()
			for round := uint64(0); b.Loop(); round++ {
				b.StopTimer()
				var data [4][]byte
				for i := range data {
					data[i] = storetest.Bytes(4*round+uint64(i), size)
				}
				b.StartTimer()
				var wg sync.WaitGroup
				for i := range data {
					wg.Go(func() { storetest.Put(b, s, data[i]) })
				}
				wg.Wait()
			}
		})
	}
}
