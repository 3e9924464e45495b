package fill

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// A registry that has delivered a part before a restart and the rest after it has delivered all of it: it is not asked to
// prove that once more.
func TestTheOriginOfWhatIsLeftIsRemembered(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		left   string // origin of what was left
		there  int
		source string
		proven bool
	}{
		"the same, another identity": {"a", 600_000, "a2", true},
		"another":                    {"a", 600_000, "b", false},
		"not known":                  {"", 600_000, "a", false},
		"the same, all of it":        {"a", 1 << 20, "a", true},
		"another, all of it":         {"a", 1 << 20, "b", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blob, d := randomBlob(1 << 20)
			s := newMemStore()
			stage, _ := s.Stage(d, 1<<20)
			stage.(store.Sourced).SetSource(tc.left)
			_, _ = stage.WriteAt(blob[:tc.there], 0)
			_ = stage.Close()
			proven := false
			f := New(Config{Store: s, Verified: func(_ oci.Digest, src Source) { proven = src.Key() == tc.source }})
			got, err := read(t.Context(), f, d, &origin{name: tc.source, blob: blob}, 0, -1)
			f.Close()
			if err != nil || !bytes.Equal(got, blob) || proven != tc.proven {
				t.Errorf("%d bytes, %v; the source is recorded as having delivered them: %t, want %t", len(got), err, proven, tc.proven)
			}
		})
	}
}

// What a fill leaves has an origin, unless several have delivered it.
func TestWhatAFillLeavesHasAnOrigin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(8 << 20)
		s := newMemStore()
		f := New(Config{Store: s, FinishShare: 1, FinishLeft: 1, Connections: 1})
		source := func() string {
			stage, err := s.Stage(d, int64(len(blob)))
			if err != nil {
				t.Fatal(err)
			}
			defer stage.Close()
			return stage.(store.Sourced).Source()
		}
		for _, tc := range []struct{ by, want string }{{"a1", "a"}, {"a2", "a"}, {"b", ""}, {"a1", ""}} {
			readSome(t, f, d, &origin{name: tc.by, blob: blob, pace: 10 * time.Millisecond}, s.stagedBytes(d)+1<<20)
			time.Sleep(time.Second)
			if got := source(); got != tc.want {
				t.Errorf("after %s what is left comes from %q, want %q", tc.by, got, tc.want)
			}
		}
		f.Close()
	})
}

// Whoever has all of a blob may ask for it again at once, and must find it recorded who delivered it.
func TestTheRegistryIsRecordedBeforeTheTailIsGivenOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		blob, d := randomBlob(1 << 20)
		var r *Reader
		given := 0
		recorded := false
		f := New(Config{Store: newMemStore(), Verified: func(oci.Digest, Source) {
			time.Sleep(time.Second) // as long as a database may take
			if r.Verified() || given > len(blob)-Withheld {
				t.Errorf("%d of %d bytes are given out before it is recorded who delivered them", given, len(blob))
			}
			recorded = true
		}})
		defer f.Close()
		var err error
		if r, _, err = f.Join(t.Context(), d, &origin{name: "a", blob: blob, pace: time.Millisecond}, store.Extent{End: -1}); err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		body, buffer := r.Range(0, -1), make([]byte, 32<<10)
		for {
			n, err := body.Read(buffer)
			given += n
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !recorded || given != len(blob) {
			t.Errorf("recorded: %t, %d bytes", recorded, given)
		}
	})
}
