package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// model is what a store should have: a map. Evictions are not in it, since the limit is never reached.
type model struct {
	t      *testing.T
	r      *rand.Rand
	open   func() store.Store
	store  store.Store
	data   [][]byte
	there  map[int]bool
	opened map[store.Blob]int
	stages map[int]*staging
	left   map[int]store.Extents // by stages that were closed, at most
	log    []string
}

// staging is a stage, and what it should hold.
type staging struct {
	stage     store.Stage
	have      store.Extents
	committed bool
}

// testModel does random operations on a store and on the model, and compares what they answer.
func testModel(t *testing.T, opener Opener) {
	for range 5 {
		m := &model{
			t: t, r: Seeded(t), open: opener(t, roomy), there: map[int]bool{}, opened: map[store.Blob]int{},
			stages: map[int]*staging{}, left: map[int]store.Extents{},
		}
		m.store = m.open()
		m.data = [][]byte{{}}
		for i := range 11 {
			m.data = append(m.data, Bytes(uint64(i), 1+m.r.IntN(400_000)))
		}
		ops := []func(i int) string{
			m.lookUp, m.lookUp, m.closeBlob, m.remove, m.stage, m.stage, m.write, m.write, m.write, m.write, m.readStage, m.commit,
			m.commit, m.closeStage, m.discard, m.usage, m.restart,
		}
		for range 600 {
			i := m.r.IntN(len(m.data))
			m.log = append(m.log, ops[m.r.IntN(len(ops))](i))
		}
		for _, st := range m.stages {
			_ = st.stage.Close()
		}
		for b := range m.opened {
			_ = b.Close()
		}
	}
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	for _, op := range m.log[max(0, len(m.log)-40):] {
		if op != "" {
			m.t.Log(op)
		}
	}
	m.t.Fatalf(format, args...)
}

func (m *model) digest(i int) oci.Digest { return oci.FromBytes(m.data[i]) }

func (m *model) lookUp(i int) string {
	b, err := m.store.Open(m.digest(i))
	switch {
	case err == nil && !m.there[i]:
		m.fail("open %d: there, should not be", i)
	case err != nil && (m.there[i] || !errors.Is(err, fs.ErrNotExist)):
		m.fail("open %d: %v, should be there: %v", i, err, m.there[i])
	case err == nil:
		WantsBytes(m.t, b, m.data[i])
		m.opened[b] = i
	}
	return fmt.Sprintf("open %d: %v", i, err)
}

func (m *model) closeBlob(int) string {
	for b, i := range m.opened {
		WantsBytes(m.t, b, m.data[i])
		if err := b.Close(); err != nil {
			m.fail("close %d: %v", i, err)
		}
		delete(m.opened, b)
		return fmt.Sprintf("close %d", i)
	}
	return ""
}

func (m *model) remove(i int) string {
	if err := m.store.Remove(m.digest(i)); err != nil {
		m.fail("remove %d: %v", i, err)
	}
	delete(m.there, i)
	return fmt.Sprintf("remove %d", i)
}

func (m *model) stage(i int) string {
	st, err := m.store.Stage(m.digest(i), int64(len(m.data[i])))
	if old := m.stages[i]; old != nil {
		if err == nil && !old.committed {
			m.fail("stage %d: a second one", i)
		}
		if err == nil {
			_ = st.Discard()
		}
		return ""
	}
	if err != nil {
		m.fail("stage %d: %v", i, err)
	}
	WantsStaged(m.t, st, m.data[i])
	have := store.Extents(st.Staged())
	if more := have.Without(m.left[i]); len(more) > 0 {
		m.fail("stage %d: holds %v, which nobody wrote", i, more)
	}
	delete(m.left, i)
	m.stages[i] = &staging{stage: st, have: append(store.Extents{}, have...)}
	return fmt.Sprintf("stage %d: holds %v", i, have)
}

func (m *model) write(i int) string {
	st := m.stages[i]
	if st == nil || st.committed {
		return ""
	}
	start := m.r.IntN(len(m.data[i]) + 1)
	end := start + m.r.IntN(len(m.data[i])-start+1)
	if m.r.IntN(3) == 0 {
		start, end = int(st.have.End(0)), len(m.data[i])
	}
	if _, err := st.stage.WriteAt(m.data[i][start:end], int64(start)); err != nil {
		m.fail("write %d %d-%d: %v", i, start, end, err)
	}
	st.have.Add(int64(start), int64(end))
	return fmt.Sprintf("write %d %d-%d", i, start, end)
}

func (m *model) readStage(i int) string {
	st := m.stages[i]
	if st == nil {
		return ""
	}
	for _, x := range st.have {
		got := make([]byte, x.End-x.Start)
		if _, err := st.stage.ReadAt(got, x.Start); err != nil && err != io.EOF || !bytes.Equal(got, m.data[i][x.Start:x.End]) {
			m.fail("read stage %d %v: %v", i, x, err)
		}
	}
	return fmt.Sprintf("read stage %d", i)
}

func (m *model) commit(i int) string {
	st := m.stages[i]
	if st == nil || st.committed {
		return ""
	}
	err := st.stage.Commit(m.t.Context(), Prove(m.t, m.data[i]))
	whole := st.have.Total() == int64(len(m.data[i]))
	if whole != (err == nil) {
		m.fail("commit %d of %v: %v", i, st.have, err)
	}
	if whole {
		m.there[i], st.committed = true, true
	}
	return fmt.Sprintf("commit %d: %v", i, err)
}

func (m *model) closeStage(i int) string {
	st := m.stages[i]
	if st == nil {
		return ""
	}
	if err := st.stage.Close(); err != nil {
		m.fail("close stage %d: %v", i, err)
	}
	if !st.committed {
		m.left[i] = st.have
	}
	delete(m.stages, i)
	return fmt.Sprintf("close stage %d", i)
}

func (m *model) discard(i int) string {
	st := m.stages[i]
	if st == nil {
		return ""
	}
	if err := st.stage.Discard(); err != nil {
		m.fail("discard %d: %v", i, err)
	}
	delete(m.stages, i)
	return fmt.Sprintf("discard %d", i)
}

func (m *model) usage(int) string {
	u := m.store.Usage()
	if u.Blobs != len(m.there) || u.Degraded != "" {
		m.fail("usage %+v, want %d blobs", u, len(m.there))
	}
	return ""
}

// restart opens the place anew, once in a while. What was open stays readable; what was being staged cannot be committed.
func (m *model) restart(int) string {
	if m.r.IntN(4) != 0 {
		return ""
	}
	old := m.stages
	m.stages = map[int]*staging{}
	m.store = m.open()
	for i, st := range old {
		m.left[i] = append(store.Extents{}, st.have...)
		if st.committed {
			delete(m.left, i)
			_ = st.stage.Close()
			continue
		}
		if err := st.stage.Commit(m.t.Context(), Prove(m.t, m.data[i])); err == nil {
			m.fail("committed %d after the store was closed", i)
		}
		for _, x := range st.have {
			got := make([]byte, x.End-x.Start)
			if _, err := st.stage.ReadAt(got, x.Start); err != nil && err != io.EOF || !bytes.Equal(got, m.data[i][x.Start:x.End]) {
				m.fail("read stage %d %v after the store was closed: %v", i, x, err)
			}
		}
		if err := st.stage.Close(); err != nil {
			m.fail("close stage %d after the store was closed: %v", i, err)
		}
	}
	return "restart"
}
