package disk_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/store/disk"
)

func TestFirst(t *testing.T) {
	dir := t.TempDir()
	for round := range 3 {
		s, err := disk.Open(disk.Config{Directory: dir, MaxSize: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte("hello"), 100000)
		d := oci.FromBytes(data)
		if round == 0 {
			if _, err := s.Open(d); !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			st, err := s.Stage(d, int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			st.WriteAt(data[:200000], 0)
			st.Close()
		} else if round == 1 {
			st, err := s.Stage(d, int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			t.Log(st.Staged())
			st.WriteAt(data[200000:], 200000)
			v := store.NewVerifier(d)
			io.Copy(v, io.NewSectionReader(st, 0, int64(len(data))))
			p, err := v.Proof()
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Commit(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			st.Close()
		} else {
			b, err := s.Open(d)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, b.Size())
			if _, err := b.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
				t.Fatal(err)
			}
			b.Close()
		}
		t.Logf("%+v", s.Usage())
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
