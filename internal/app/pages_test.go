package app_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// Who goes back to an original deletes what the guide names, and who backs up reads what the architecture says: all that
// there is in the two directories.
func TestPagesNameWhatIsOnDisk(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t, registrytest.Config{})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	h := start(t, reg.World, "REGISTRIES="+reg.Host())
	h.pull(reg, "app", "1").wantOutcomes(t, "MISS", "MISS")
	for page, part := range map[string]struct{ from, glob string }{
		"../../docs/migration.md": {"## Back again", "cache/*"}, "../../ARCHITECTURE.md": {"## On disk", "*/*"},
	} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		_, section, _ := strings.Cut(string(text), part.from+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		names, err := filepath.Glob(filepath.Join(h.root, part.glob))
		if err != nil || len(names) < 5 {
			t.Fatalf("%q, %v: want what the proxy has made", names, err)
		}
		words := strings.FieldsFunc(section, func(r rune) bool { return strings.ContainsRune(" \n`/>", r) })
		for _, name := range names {
			if !slices.Contains(words, filepath.Base(name)) {
				t.Errorf("%s, %s: does not name %s", page, part.from, filepath.Base(name))
			}
		}
	}
}
