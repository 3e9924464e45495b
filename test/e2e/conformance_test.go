package e2e

import (
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"container-registry-proxy/internal/oci"
)

// The pull category of the OCI distribution conformance suite, as its own program: it asks the proxy as a mirror, where
// a repository is one of Docker Hub, and by path.
func TestConformance(t *testing.T) {
	t.Parallel()
	suite := filepath.Join(t.TempDir(), "conformance")
	build := goCommand("build", "-C", "../conformance", "-o", suite, "github.com/opencontainers/distribution-spec/conformance")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the suite: %v\n%s", err, out)
	}
	p, hub, other := mirrorWorld(t)
	for name, at := range map[string]struct {
		repository string
		origin     origin
	}{"mirror": {repository, hub}, "path": {other.host + "/" + repository, other}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			blobs := []string{}
			for digest := range at.origin.image.Blobs {
				blobs = append(blobs, string(digest))
			}
			slices.Sort(blobs)
			cmd := exec.CommandContext(t.Context(), suite)
			cmd.Dir = dir
			cmd.Env = []string{
				"OCI_VERSION=1.1", "OCI_REGISTRY=" + p.address, "OCI_TLS=disabled", "OCI_REPO1=" + at.repository, "OCI_REPO2=" + at.repository, "OCI_RESULTS_DIR=" + dir,
				"OCI_API_PUSH=false", "OCI_API_BLOBS_DELETE=false", "OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false",
				"OCI_RO_DATA_TAGS=" + tag, "OCI_RO_DATA_MANIFESTS=" + string(at.origin.image.Digest), "OCI_RO_DATA_BLOBS=" + strings.Join(blobs, " "),
				"OCI_RO_DATA_REFERRERS=" + string(oci.FromBytes([]byte("nobody refers to this"))),
			}
			out, _ := cmd.CombinedOutput() // without pushes it prints its results, and then fails to write them as YAML
			wantConformance(t, string(out))
		})
	}
}

var conformanceCount = regexp.MustCompile(`(?m)^  (Pass|FAIL|Error|Skip)\.*: +([0-9]+)$`)

// wantConformance reads what the suite prints of its results: nothing fails, and what there is to pull has been pulled.
func wantConformance(t *testing.T, printed string) {
	t.Helper()
	counts := map[string]string{}
	for _, m := range conformanceCount.FindAllStringSubmatch(printed, -1) {
		counts[m[1]] = m[2]
	}
	want := map[string]string{"Pass": "20", "FAIL": "0", "Error": "0", "Skip": "0"}
	if !maps.Equal(counts, want) || !strings.Contains(printed, "OCI Conformance Result: Pass") {
		t.Errorf("results are %v, want %v:\n%s", counts, want, printed)
	}
}
