package fill

import (
	"bytes"
	"io"
	"testing"
)

func TestPassVerifies(t *testing.T) {
	t.Parallel()
	blob, d := randomBlob(1 << 20)
	for _, tc := range []struct{ start, end int64 }{{0, -1}, {0, 1 << 20}, {800_000, 1 << 20}, {1<<20 - 1, 1 << 20}} {
		wrong := bytes.Clone(blob)
		wrong[1000] ^= 1
		for _, o := range []*origin{{name: "good", blob: blob}, {name: "bad", blob: wrong}} {
			p, err := Pass(t.Context(), d, o)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(p.Range(tc.start, tc.end))
			if o.name == "good" && (err != nil || !bytes.Equal(got, blob[tc.start:])) {
				t.Errorf("range %d-%d: %d bytes, %v", tc.start, tc.end, len(got), err)
			}
			if o.name == "bad" && err == nil {
				t.Errorf("range %d-%d of wrong bytes: %d bytes and no error", tc.start, tc.end, len(got))
			}
			_ = p.Close()
		}
	}
}
