// Package storetest is the suite that every implementation of [store.Store] passes. Its invariant: what it asserts is
// what a caller sees, so it says nothing of files, buckets or the order of operations.
package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// Opener returns, for a test, a function that opens a store with this limit in bytes on a place of its own. Called again
// it is a restart: it ends the store that it returned before and opens the same place anew. Open blobs and stages of the
// earlier one may still be closed afterwards.
type Opener func(t testing.TB, limit int64) (open func() store.Store)

// roomy is a limit that no test of the contract meets by accident.
const roomy = 64 << 20

// Run runs the suite.
func Run(t *testing.T, opener Opener) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*testing.T, Opener)
	}{
		{"a blob is unseen until it is committed", testUnseenUntilCommit},
		{"blobs of every size come back", testSizes},
		{"a size may be unknown", testUnknownSize},
		{"parts are read where they lie", testRanges},
		{"sha512", testSHA512},
		{"blobs outlive the process", testRestart},
		{"only a proof of all the bytes commits", testWrongProof},
		{"a stage is read while it is written", testFollowedStage},
		{"a stage is read after its commit", testReadAfterCommit},
		{"what a stage leaves is taken up", testLeftover},
		{"what a stage leaves for another size is not", testLeftoverOfOtherSize},
		{"what is discarded is gone", testDiscard},
		{"one stage a digest", testOneStage},
		{"a removed blob stays readable while it is open", testRemove},
		{"a blob larger than the limit is refused", testTooLarge},
		{"a small blob gets nothing of what is promised to another", testPromised},
		{"the limit holds", testLimit},
		{"many at once", testConcurrent},
		{"a model", testModel},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, opener)
		})
	}
}

// Seeded returns a random source and names its seed, which SEED repeats.
func Seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("SEED=%d repeats this", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Bytes returns n bytes that depend on seed and are like no others.
func Bytes(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// Prove returns the proof for data.
func Prove(t testing.TB, data []byte) store.Proof {
	t.Helper()
	verifier := store.NewVerifier(oci.FromBytes(data))
	_, _ = verifier.Write(data)
	proof, err := verifier.Proof()
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// Put commits data and returns its digest.
func Put(t testing.TB, s store.Store, data []byte) oci.Digest {
	t.Helper()
	d, err := TryPut(t, s, data)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TryPut commits data where the store takes it. What it took up is not written again. It closes the stage.
func TryPut(t testing.TB, s store.Store, data []byte) (oci.Digest, error) {
	t.Helper()
	d := oci.FromBytes(data)
	st, err := s.Stage(d, int64(len(data)))
	if err != nil {
		return d, err
	}
	if err := complete(st, data); err != nil {
		return d, errors.Join(err, st.Close())
	}
	return d, errors.Join(st.Commit(context.Background(), Prove(t, data)), st.Close())
}

// complete writes what is not staged of data.
func complete(st store.Stage, data []byte) error {
	staged := store.Extents(st.Staged())
	for at := int64(0); at < int64(len(data)); {
		if end := staged.End(at); end > at {
			at = end
			continue
		}
		end := int64(len(data))
		if next := staged.Next(at); next >= 0 {
			end = min(end, next)
		}
		end = min(end, at+100_000)
		if _, err := st.WriteAt(data[at:end], at); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// Stage opens a stage for data.
func Stage(t testing.TB, s store.Store, data []byte) store.Stage {
	t.Helper()
	st, err := s.Stage(oci.FromBytes(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

// Write writes data[start:end] to its place.
func Write(t testing.TB, st store.Stage, data []byte, start, end int) {
	t.Helper()
	if n, err := st.WriteAt(data[start:end], int64(start)); err != nil || n != end-start {
		t.Fatalf("write %d-%d: %d, %v", start, end, n, err)
	}
}

// Wants asserts that the store has data, whole and in parts.
func Wants(t testing.TB, s store.Store, data []byte) {
	t.Helper()
	b, err := s.Open(oci.FromBytes(data))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	WantsBytes(t, b, data)
}

// WantsBytes asserts that an open blob has data.
func WantsBytes(t testing.TB, b store.Blob, data []byte) {
	t.Helper()
	if b.Size() != int64(len(data)) {
		t.Fatalf("size is %d, want %d", b.Size(), len(data))
	}
	got := make([]byte, len(data))
	n, err := b.ReadAt(got, 0)
	if err == io.EOF {
		err = nil
	}
	if err != nil || !bytes.Equal(got[:n], data) {
		t.Fatalf("read %d bytes of %d, equal: %v, %v", n, len(data), bytes.Equal(got[:n], data), err)
	}
}

// WantsStaged asserts that what a stage says it holds is what data has there.
func WantsStaged(t testing.TB, st store.Stage, data []byte) {
	t.Helper()
	last := int64(-1)
	for _, x := range st.Staged() {
		if x.Start <= last || x.End <= x.Start || x.End > int64(len(data)) {
			t.Fatalf("staged %v of %d bytes", st.Staged(), len(data))
		}
		last = x.End
		got := make([]byte, x.End-x.Start)
		if _, err := st.ReadAt(got, x.Start); err != nil && err != io.EOF {
			t.Fatalf("read staged %v: %v", x, err)
		}
		if !bytes.Equal(got, data[x.Start:x.End]) {
			t.Fatalf("bytes %v are staged with other contents", x)
		}
	}
}

// WantsExtents asserts what a stage says it holds.
func WantsExtents(t testing.TB, st store.Stage, want ...store.Extent) {
	t.Helper()
	if got := st.Staged(); !slices.Equal(got, want) {
		t.Fatalf("staged %v, want %v", got, want)
	}
}
