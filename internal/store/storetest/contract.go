package storetest

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

func wantsAbsent(t testing.TB, s store.Store, d oci.Digest) {
	t.Helper()
	if b, err := s.Open(d); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("open: %v, %v, want fs.ErrNotExist", b, err)
	}
}

func testUnseenUntilCommit(t *testing.T, opener Opener) {
	s := opener(t, roomy)()
	data := Bytes(1, 100_000)
	d := oci.FromBytes(data)
	wantsAbsent(t, s, d)
	st := Stage(t, s, data)
	wantsAbsent(t, s, d)
	Write(t, st, data, 0, len(data))
	wantsAbsent(t, s, d)
	if err := st.Commit(t.Context(), Prove(t, data)); err != nil {
		t.Fatal(err)
	}
	Wants(t, s, data)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	Wants(t, s, data)
	if u := s.Usage(); u.Blobs != 1 || u.Bytes < int64(len(data)) || u.Staged != 0 || u.Limit != roomy || u.Degraded != "" {
		t.Errorf("usage %+v", u)
	}
}

// The empty blob is one like others; it is in most images.
func testSizes(t *testing.T, opener Opener) {
	open := opener(t, roomy)
	s := open()
	var all [][]byte
	for i, n := range []int{0, 1, store.ChunkSize - 1, store.ChunkSize, store.ChunkSize + 1, 3*store.ChunkSize + 7, 5 << 20} {
		all = append(all, Bytes(uint64(i), n))
	}
	for range 2 {
		for _, data := range all {
			if _, err := s.Open(oci.FromBytes(data)); err != nil {
				Put(t, s, data)
			}
			Wants(t, s, data)
		}
		s = open()
	}
	if u := s.Usage(); u.Blobs != len(all) {
		t.Errorf("%d blobs, want %d", u.Blobs, len(all))
	}
}

func testUnknownSize(t *testing.T, opener Opener) {
	s := opener(t, roomy)()
	for i, n := range []int{0, 1, 5000, 9 << 20} {
		data := Bytes(uint64(i), n)
		st, err := s.Stage(oci.FromBytes(data), -1)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < n; at += 1 << 20 {
			Write(t, st, data, at, min(n, at+1<<20))
		}
		if err := errors.Join(st.Commit(t.Context(), Prove(t, data)), st.Close()); err != nil {
			t.Fatal(err)
		}
		Wants(t, s, data)
	}
}

func testRanges(t *testing.T, opener Opener) {
	s := opener(t, roomy)()
	data := Bytes(1, 3*store.ChunkSize+100)
	Put(t, s, data)
	b, err := s.Open(oci.FromBytes(data))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	size := int64(len(data))
	edges := []int64{0, 1, store.ChunkSize - 1, store.ChunkSize, store.ChunkSize + 1, 2 * store.ChunkSize, 3 * store.ChunkSize, size - 1, size, size + 1}
	for _, start := range edges {
		for _, end := range edges {
			if end < start {
				continue
			}
			got := bytes.Repeat([]byte{0xee}, int(end-start))
			n, err := b.ReadAt(got, start)
			want := data[min(start, size):min(end, size)]
			if n != len(want) || !bytes.Equal(got[:n], want) {
				t.Errorf("read %d-%d: %d bytes, equal: %v", start, end, n, bytes.Equal(got[:n], want))
			}
			if short := n < len(got); short != (err == io.EOF) || !short && err != nil {
				t.Errorf("read %d-%d: %d bytes and %v", start, end, n, err)
			}
		}
	}
	if _, err := b.ReadAt(make([]byte, 1), -1); err == nil || err == io.EOF {
		t.Errorf("read at -1: %v", err)
	}
}

func testSHA512(t *testing.T, opener Opener) {
	open := opener(t, roomy)
	s := open()
	data := Bytes(1, 70_000)
	sum := sha512.Sum512(data)
	d := oci.Digest("sha512:" + hex.EncodeToString(sum[:]))
	st, err := s.Stage(d, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	Write(t, st, data, 0, len(data))
	verifier := store.NewVerifier(d)
	_, _ = verifier.Write(data)
	proof, err := verifier.Proof()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(st.Commit(t.Context(), proof), st.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := open().Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	WantsBytes(t, b, data)
	wantsAbsent(t, s, oci.FromBytes(data)) // it is a name of its own
}

func testRestart(t *testing.T, opener Opener) {
	open := opener(t, roomy)
	for i := range 5 {
		s := open()
		for j := range i {
			Wants(t, s, Bytes(uint64(j), 1000*j+1))
		}
		Put(t, s, Bytes(uint64(i), 1000*i+1))
	}
}

func testWrongProof(t *testing.T, opener Opener) {
	s := opener(t, roomy)()
	data, other := Bytes(1, 50_000), Bytes(2, 50_000)
	st := Stage(t, s, data)
	Write(t, st, data, 0, 20_000)
	for name, proof := range map[string]store.Proof{
		"no proof": {}, "of another blob": Prove(t, other), "of more than is staged": Prove(t, data),
	} {
		if err := st.Commit(t.Context(), proof); err == nil {
			t.Errorf("%s: committed", name)
		}
		wantsAbsent(t, s, oci.FromBytes(data))
		wantsAbsent(t, s, oci.FromBytes(other))
	}
	Write(t, st, data, 20_000, len(data))
	if err := st.Commit(t.Context(), Prove(t, data)); err != nil {
		t.Fatalf("after refused proofs: %v", err)
	}
	Wants(t, s, data)
}

func testFollowedStage(t *testing.T, opener Opener) {
	s := opener(t, roomy)()
	data := Bytes(1, 300_000)
	st := Stage(t, s, data)
	for _, part := range [][2]int{{200_000, 300_000}, {0, 1}, {1, 70_000}, {69_000, 200_000}} {
		Write(t, st, data, part[0], part[1])
		got := make([]byte, part[1]-part[0])
		if _, err := st.ReadAt(got, int64(part[0])); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if !bytes.Equal(got, data[part[0]:part[1]]) {
			t.Errorf("%v reads otherwise", part)
		}
	}
	if _, err := st.WriteAt([]byte("x"), int64(len(data))); err == nil {
		t.Error("a write past the end is taken")
	}
	if err := st.Commit(t.Context(), Prove(t, data)); err != nil {
		t.Fatal(err)
	}
	Wants(t, s, data)
}

func testReadAfterCommit(t *testing.T, opener Opener) {
	s := opener(t, roomy)()
	data := Bytes(1, 200_000)
	st := Stage(t, s, data)
	Write(t, st, data, 0, len(data))
	if err := st.Commit(t.Context(), Prove(t, data)); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(oci.FromBytes(data)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if _, err := st.ReadAt(got, 0); err != nil && err != io.EOF || !bytes.Equal(got, data) {
		t.Errorf("after commit and removal: %v, equal: %v", err, bytes.Equal(got, data))
	}
	if err := errors.Join(st.Close(), st.Close()); err != nil {
		t.Error(err)
	}
	wantsAbsent(t, s, oci.FromBytes(data))
}

func testLeftover(t *testing.T, opener Opener) {
	open := opener(t, roomy)
	s := open()
	data := Bytes(1, 3<<20)
	st := Stage(t, s, data)
	wantsSource(t, st, "")
	if sourced, is := st.(store.Sourced); is {
		sourced.SetSource("somebody")
	}
	Write(t, st, data, 0, 1<<20)
	Write(t, st, data, 2<<20, 2<<20+5)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	wantsLeftover(t, s, data)
	st = Stage(t, s, data)
	WantsExtents(t, st, store.Extent{Start: 0, End: 1 << 20}, store.Extent{Start: 2 << 20, End: 2<<20 + 5})
	WantsStaged(t, st, data)
	wantsSource(t, st, "somebody")
	Write(t, st, data, 1<<20, 1<<20+1)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	wantsLeftover(t, s, data)
	st = Stage(t, s, data)
	WantsStaged(t, st, data) // a restart may have cost some of it
	wantsSource(t, st, "somebody")
	if err := complete(st, data); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(st.Commit(t.Context(), Prove(t, data)), st.Close()); err != nil {
		t.Fatal(err)
	}
	Wants(t, open(), data)
}

// wantsLeftover fails the test if a store that says what is left does not know of data.
func wantsLeftover(t *testing.T, s store.Store, data []byte) {
	t.Helper()
	if resumable, is := s.(store.Resumable); is {
		if size, ok := resumable.Leftover(oci.FromBytes(data)); !ok || size != int64(len(data)) {
			t.Errorf("Leftover: %d, %t, want %d", size, ok, len(data))
		}
		if _, ok := resumable.Leftover(oci.FromBytes([]byte("never staged"))); ok {
			t.Error("Leftover knows of a blob that was never staged")
		}
	}
}

// wantsSource fails the test if a stage that remembers where its bytes come from does not.
func wantsSource(t *testing.T, st store.Stage, want string) {
	t.Helper()
	if sourced, is := st.(store.Sourced); is && sourced.Source() != want && len(st.Staged()) > 0 {
		t.Errorf("the bytes come from %q, want %q", sourced.Source(), want)
	}
}

func testLeftoverOfOtherSize(t *testing.T, opener Opener) {
	s := opener(t, roomy)()
	data := Bytes(1, 100_000)
	st, err := s.Stage(oci.FromBytes(data), 200_000) // a registry that says it wrong at first
	if err != nil {
		t.Fatal(err)
	}
	Write(t, st, data, 0, len(data))
	if err := st.Commit(t.Context(), Prove(t, data)); err != nil {
		t.Logf("a proof of another size than announced: %v", err)
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		st = Stage(t, s, data)
		WantsExtents(t, st)
		Write(t, st, data, 0, len(data))
		if err := st.Commit(t.Context(), Prove(t, data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	Wants(t, s, data)
}

func testDiscard(t *testing.T, opener Opener) {
	s := opener(t, roomy)()
	data := Bytes(1, 100_000)
	st := Stage(t, s, data)
	Write(t, st, data, 0, 70_000)
	if err := errors.Join(st.Discard(), st.Discard(), st.Close()); err != nil {
		t.Fatal(err)
	}
	if u := s.Usage(); u.Staged != 0 {
		t.Errorf("usage %+v", u)
	}
	WantsExtents(t, Stage(t, s, data))
	wantsAbsent(t, s, oci.FromBytes(data))
}

func testOneStage(t *testing.T, opener Opener) {
	s := opener(t, roomy)()
	data := Bytes(1, 1000)
	first := Stage(t, s, data)
	if _, err := s.Stage(oci.FromBytes(data), 1000); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("a second stage: %v, want an error that lets the pull pass through", err)
	}
	Write(t, first, data, 0, 1000)
	if err := first.Commit(t.Context(), Prove(t, data)); err != nil {
		t.Fatal(err)
	}
	// Its readers may go on for long; the blob may be evicted and filled again meanwhile.
	if err := s.Remove(oci.FromBytes(data)); err != nil {
		t.Fatal(err)
	}
	Put(t, s, data)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	Wants(t, s, data)
}

func testRemove(t *testing.T, opener Opener) {
	open := opener(t, roomy)
	s := open()
	data := Bytes(1, 200_000)
	d := Put(t, s, data)
	b, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Remove(d); err != nil {
			t.Fatal(err)
		}
		wantsAbsent(t, s, d)
	}
	WantsBytes(t, b, data)
	Put(t, s, data)
	WantsBytes(t, b, data)
	if err := errors.Join(b.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
	Wants(t, s, data)
	if err := s.Remove(d); err != nil {
		t.Fatal(err)
	}
	if u := s.Usage(); u.Blobs != 0 || u.Bytes != 0 {
		t.Errorf("usage %+v", u)
	}
	wantsAbsent(t, open(), d)
}
