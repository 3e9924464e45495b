package disk

import (
	"bytes"
	"os"
	"testing"

	"container-registry-proxy/test/lack"
)

// A file system may give less than it is asked for, as /proc does, and 9p of a file that is opened not to block.
func TestSmallFileInPieces(t *testing.T) {
	t.Parallel()
	const path = "/proc/crypto" // more than a page
	want, err := os.ReadFile(path)
	if err != nil || len(want) < 8<<10 || len(want) > small {
		lack.Of(t, "%s of some pages", path)
	}
	if got, err := readSmall(path, int64(len(want))); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
	}
	for _, size := range []int{len(want) - 1, len(want) + 1, 100} {
		if got, err := readSmall(path, int64(size)); err == nil {
			t.Errorf("%d bytes are taken for all of %d", len(got), len(want))
		}
	}
}
