package disk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/store/storetest"
)

// The script is a life of a store in which everything happens that changes the disk: commits, evictions, removals,
// checkpoints, what stages leave and what is taken up again. Tests kill the process, fail the disk or cut the power at each
// of its operations.

// scriptLimit makes the script evict.
const scriptLimit = 6 << 20

// scriptData are the blobs of the script. Those that are pinned are not evicted.
var scriptData = func() map[string][]byte {
	data := map[string][]byte{"empty": {}}
	for i, name := range []string{"first", "large", "removed", "discarded", "chunked", "broken off"} {
		data[name] = storetest.Bytes(uint64(i), 200_000+i*11_111)
	}
	data["large"] = storetest.Bytes(50, 2_500_000)
	data["small"] = storetest.Bytes(60, 20_000)
	for i := range 14 {
		data[fmt.Sprint("filler ", i)] = storetest.Bytes(100+uint64(i), 350_000)
	}
	return data
}()

// scriptDigests are their names, and scriptProofs their proofs.
var scriptDigests, scriptProofs = func() (map[string]oci.Digest, map[string]store.Proof) {
	digests, proofs := map[string]oci.Digest{}, map[string]store.Proof{}
	for name, data := range scriptData {
		digests[name] = oci.FromBytes(data)
		verifier := store.NewVerifier(digests[name])
		_, _ = verifier.Write(data)
		proofs[name], _ = verifier.Proof()
	}
	return digests, proofs
}()

func scriptPinned(d oci.Digest) bool {
	for _, name := range []string{"empty", "first", "large", "small", "chunked"} {
		if scriptDigests[name] == d {
			return true
		}
	}
	return false
}

func scriptConfig(dir string) disk.Config {
	return disk.Config{Directory: dir, MaxSize: scriptLimit, Pinned: scriptPinned}
}

// script runs it once.
type script struct {
	store *disk.Store
	// said is told what a caller may rely on from now on: "put first", "remove removed".
	said func(what string)
	// wrong is told what must not be, however the disk fails.
	wrong func(format string, args ...any)
	step  func(name string) // between operations of the store

	buffer []byte // for what is read back
}

func (s *script) run() {
	s.put("first", 200_000)
	s.put("removed", 50_000)
	s.upkeep()
	s.part("large", 0, 1_500_000, store.Stage.Close)
	s.upkeep()
	s.part("large", 1_700_000, 2_000_000, store.Stage.Close)
	s.part("broken off", 0, 100_000, store.Stage.Close)
	s.remove("removed")
	s.put("empty", 1)
	s.part("small", 0, 10_000, store.Stage.Close)
	s.put("small", 15_000)
	for i := range 7 {
		s.put(fmt.Sprint("filler ", i), 100_000)
	}
	s.upkeep()
	s.part("discarded", 0, 70_000, store.Stage.Discard)
	s.put("large", 300_000)
	s.putUnsized("chunked")
	for i := range 14 {
		s.put(fmt.Sprint("filler ", i), 350_000)
	}
	s.upkeep()
	s.part("broken off", 100_000, 150_000, store.Stage.Close)
}

// ok judges an error: trouble with the disk is a lack of space, and nothing else.
func (s *script) ok(what string, err error) bool {
	if err != nil && !errors.Is(err, store.ErrNoSpace) {
		s.wrong("%s: %v, which is no lack of space", what, err)
	}
	return err == nil
}

func (s *script) upkeep() {
	s.step("upkeep")
	s.store.Upkeep()
	s.step("flush")
	_ = s.store.DB().Flush()
}

func (s *script) remove(name string) {
	if err := s.store.Remove(scriptDigests[name]); err != nil {
		return
	}
	s.said("remove " + name)
	if _, err := s.store.Open(scriptDigests[name]); !errors.Is(err, fs.ErrNotExist) {
		s.wrong("%s is seen after its removal: %v", name, err)
	}
}

func (s *script) part(name string, start, end int, finish func(store.Stage) error) {
	data := scriptData[name]
	st, err := s.store.Stage(scriptDigests[name], int64(len(data)))
	if !s.ok("stage "+name, err) {
		return
	}
	s.staged(name, st)
	_, err = st.WriteAt(data[start:end], int64(start))
	s.ok("write "+name, err)
	_ = finish(st)
}

// staged checks what a stage says it holds.
func (s *script) staged(name string, st store.Stage) {
	for _, x := range st.Staged() {
		got := make([]byte, x.End-x.Start)
		if _, err := st.ReadAt(got, x.Start); err != nil && err != io.EOF || !bytes.Equal(got, scriptData[name][x.Start:x.End]) {
			s.wrong("%s is staged at %v with other bytes: %v", name, x, err)
		}
	}
}

// put commits a blob in steps, unless it is there, and reads it through the stage and from the store.
func (s *script) put(name string, step int) {
	data := scriptData[name]
	if b, err := s.store.Open(scriptDigests[name]); err == nil {
		s.reads(name, b)
		_ = b.Close()
		return
	}
	st, err := s.store.Stage(scriptDigests[name], int64(len(data)))
	if !s.ok("stage "+name, err) {
		return
	}
	defer st.Close()
	s.staged(name, st)
	have := store.Extents(slices.Clone(st.Staged()))
	for at := int64(0); at < int64(len(data)); at = have.End(at) {
		if have.End(at) > at {
			continue
		}
		end := min(at+int64(step), int64(len(data)))
		if _, err := st.WriteAt(data[at:end], at); !s.ok("write "+name, err) {
			return
		}
		have.Add(at, end)
	}
	s.commit(name, st)
}

func (s *script) putUnsized(name string) {
	data := scriptData[name]
	st, err := s.store.Stage(scriptDigests[name], -1)
	if !s.ok("stage "+name, err) {
		return
	}
	defer st.Close()
	if _, err := st.WriteAt(data, 0); s.ok("write "+name, err) {
		s.commit(name, st)
	}
}

func (s *script) commit(name string, st store.Stage) {
	data := scriptData[name]
	if s.ok("commit "+name, st.Commit(context.Background(), scriptProofs[name])) {
		s.said("put " + name)
		b, err := s.store.Open(scriptDigests[name])
		if err != nil && scriptPinned(scriptDigests[name]) {
			s.wrong("%s is not there after its commit: %v", name, err)
		}
		if err == nil {
			s.reads(name, b)
			_ = b.Close()
		}
	}
	s.reads(name, stageBlob{st, int64(len(data))})
}

// stageBlob reads a stage to its end.
type stageBlob struct {
	store.Stage
	size int64
}

func (b stageBlob) Size() int64 { return b.size }

// reads checks the bytes of a blob, whatever the disk does.
func (s *script) reads(name string, b interface {
	io.ReaderAt
	Size() int64
}) {
	data := scriptData[name]
	s.buffer = slices.Grow(s.buffer[:0], len(data))[:len(data)]
	n, err := b.ReadAt(s.buffer, 0)
	if err == io.EOF {
		err = nil
	}
	if err != nil || b.Size() != int64(len(data)) || !bytes.Equal(s.buffer[:n], data) {
		s.wrong("%s reads otherwise: %d bytes of %d, %v", name, n, b.Size(), err)
	}
}

// wantsScriptState checks a store that was opened after the script broke off: what was said holds, no byte is wrong, staging
// holds what resumes and nothing else, and everything can be put.
func wantsScriptState(t *testing.T, s *disk.Store, said []string) {
	t.Helper()
	for name, data := range scriptData {
		put := slices.Contains(said, "put "+name) && !slices.Contains(said, "remove "+name)
		b, err := s.Open(scriptDigests[name])
		switch {
		case err == nil && slices.Contains(said, "remove "+name):
			t.Errorf("%s was removed and is there", name)
		case err == nil:
			storetest.WantsBytes(t, b, data)
			_ = b.Close()
		case !errors.Is(err, fs.ErrNotExist):
			t.Errorf("open %s: %v", name, err)
		case put && scriptPinned(scriptDigests[name]):
			t.Errorf("%s was committed and is gone", name)
		}
	}
	s.Survey(t.Context())
	if err := s.Audit(); err != nil {
		t.Error(err)
	}
	wantsLeftovers(t, s)
	for name, data := range scriptData {
		if b, err := s.Open(scriptDigests[name]); err == nil {
			_ = b.Close()
		} else if _, err := storetest.TryPut(t, s, data); err != nil {
			t.Errorf("put %s again: %v", name, err)
		}
	}
	if u := s.Usage(); u.Degraded != "" || u.Bytes+u.Staged > u.Limit {
		t.Errorf("usage %+v", u)
	}
}

// wantsLeftovers checks what is left of stages.
func wantsLeftovers(t *testing.T, s *disk.Store) {
	t.Helper()
	for d, size := range s.Leftovers() {
		for name, data := range scriptData {
			if scriptDigests[name] != d {
				continue
			}
			st, err := s.Stage(d, size)
			if err != nil {
				t.Errorf("stage %s: %v", name, err)
				continue
			}
			storetest.WantsStaged(t, st, data)
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
