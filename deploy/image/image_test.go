package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sample(architecture string) contents {
	return contents{
		program: []byte("program of " + architecture), roots: []byte("-----BEGIN CERTIFICATE-----"), architecture: architecture,
		created: time.Unix(1_700_000_000, 0).UTC(), version: "1.2.0", revision: "0f3c1a2b",
	}
}

// unpack returns the files of a tar by name; directories have a slash at the end and no content.
func unpack(t *testing.T, b []byte) (map[string][]byte, map[string]*tar.Header) {
	t.Helper()
	files, headers := map[string][]byte{}, map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if headers[h.Name] != nil {
			t.Errorf("%s is there twice", h.Name)
		}
		files[h.Name], headers[h.Name] = content, h
	}
}

func decode[T any](t *testing.T, b []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return v
}

// blob returns what a descriptor names, after checking that it is what it says.
func blob(t *testing.T, files map[string][]byte, d descriptor) []byte {
	t.Helper()
	b, ok := files["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
	if !ok || digest(b) != d.Digest || len(b) != d.Size {
		t.Fatalf("%s: there: %v, %d bytes with digest %s; want %d bytes", d.Digest, ok, len(b), digest(b), d.Size)
	}
	return b
}

// Everything is reachable from index.json, and nothing else is there.
func TestArchiveOfAllPlatforms(t *testing.T) {
	t.Parallel()
	files, _ := unpack(t, archives([]image{assemble(sample("amd64")), assemble(sample("arm64"))})["container-registry-proxy-image.tar"])
	top := decode[index](t, files["index.json"])
	if len(top.Manifests) != 1 || top.Manifests[0].MediaType != typeIndex || top.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "latest" {
		t.Fatalf("index.json has %+v, want one index named latest", top.Manifests)
	}
	seen := map[string]bool{top.Manifests[0].Digest: true}
	var platforms []string
	for _, d := range decode[index](t, blob(t, files, top.Manifests[0])).Manifests {
		m := decode[manifest](t, blob(t, files, d))
		cfg := decode[configuration](t, blob(t, files, m.Config))
		platforms = append(platforms, d.Platform.OS+"/"+d.Platform.Architecture)
		if cfg.OS != d.Platform.OS || cfg.Architecture != d.Platform.Architecture {
			t.Errorf("configuration is of %s/%s, want that of %+v", cfg.OS, cfg.Architecture, d.Platform)
		}
		seen[d.Digest], seen[m.Config.Digest] = true, true
		var diffs []string
		for _, l := range m.Layers {
			seen[l.Digest] = true
			diffs = append(diffs, digest(gunzip(t, blob(t, files, l))))
		}
		if !slices.Equal(diffs, cfg.RootFS.DiffIDs) {
			t.Errorf("diff IDs are %q, want those of the layers, %q", cfg.RootFS.DiffIDs, diffs)
		}
		program, _ := unpack(t, gunzip(t, blob(t, files, m.Layers[1])))
		if got := string(program["usr/bin/container-registry-proxy"]); got != "program of "+cfg.Architecture {
			t.Errorf("program of %s is %q", cfg.Architecture, got)
		}
	}
	if !slices.Equal(platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("platforms are %q", platforms)
	}
	for name := range files {
		if d, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && !seen["sha256:"+d] {
			t.Errorf("%s is reachable from nothing", name)
		}
	}
}

func TestArchiveForDocker(t *testing.T) {
	t.Parallel()
	files, _ := unpack(t, archives([]image{assemble(sample("arm64"))})["container-registry-proxy-image-arm64.tar"])
	entries := decode[[]struct {
		Config   string
		RepoTags []string
		Layers   []string
	}](t, files["manifest.json"])
	m := decode[manifest](t, blob(t, files, decode[index](t, files["index.json"]).Manifests[0]))
	if len(entries) != 1 || !slices.Equal(entries[0].RepoTags, []string{"container-registry-proxy:latest"}) {
		t.Fatalf("manifest.json has %+v", entries)
	}
	var want []string
	for _, l := range m.Layers {
		want = append(want, blobPath(l.Digest))
	}
	if entries[0].Config != blobPath(m.Config.Digest) || !slices.Equal(entries[0].Layers, want) {
		t.Errorf("manifest.json has %+v, want what the OCI manifest has: %s %q", entries[0], m.Config.Digest, want)
	}
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	img := assemble(sample("amd64"))
	got := decode[map[string]any](t, img.blobs[img.config])["config"].(map[string]any)
	delete(got, "Labels")
	want := map[string]any{
		"Env":          []any{"PATH=/usr/bin", "RUN_AS=65532:65532"},
		"Entrypoint":   []any{"/usr/bin/container-registry-proxy"},
		"Cmd":          []any{"serve"},
		"Volumes":      map[string]any{"/ca": map[string]any{}, "/registry_proxy_mirror_cache": map[string]any{}},
		"ExposedPorts": map[string]any{"3128/tcp": map[string]any{}},
		"WorkingDir":   "/",
		"StopSignal":   "SIGTERM",
		"Healthcheck": map[string]any{
			"Test":     []any{"CMD", "/usr/bin/container-registry-proxy", "healthcheck"},
			"Interval": 10e9, "Timeout": 10e9, "StartPeriod": 60e9, "Retries": 3.0,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

// Who owns what decides whether the program can start without any capability.
func TestFiles(t *testing.T) {
	t.Parallel()
	img := assemble(sample("amd64"))
	modes := map[string]string{}
	for _, l := range img.layers {
		files, headers := unpack(t, gunzip(t, img.blobs[l]))
		for name, h := range headers {
			modes[name] = h.FileInfo().Mode().String() + " " + map[int]string{0: "root", 65532: "proxy"}[h.Uid]
			if h.Uid != h.Gid || !h.ModTime.Equal(time.Unix(1_700_000_000, 0)) {
				t.Errorf("%s: user %d, group %d, of %v", name, h.Uid, h.Gid, h.ModTime)
			}
		}
		if base, ok := files["etc/ssl/certs/ca-certificates.crt"]; ok && string(base) != "-----BEGIN CERTIFICATE-----" {
			t.Errorf("root certificates are %q", base)
		}
	}
	want := map[string]string{
		"ca/": "drwxr-xr-x proxy", "registry_proxy_mirror_cache/": "drwxr-xr-x proxy", "tmp/": "dtrwxrwxrwx root",
		"etc/": "drwxr-xr-x root", "etc/passwd": "-rw-r--r-- root", "etc/group": "-rw-r--r-- root",
		"etc/ssl/": "drwxr-xr-x root", "etc/ssl/certs/": "drwxr-xr-x root", "etc/ssl/certs/ca-certificates.crt": "-rw-r--r-- root",
		"usr/": "drwxr-xr-x root", "usr/bin/": "drwxr-xr-x root", "usr/bin/container-registry-proxy": "-rwxr-xr-x root",
	}
	if diff := cmp.Diff(want, modes); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestSameBytesTwice(t *testing.T) {
	t.Parallel()
	both := func() map[string][]byte {
		return archives([]image{assemble(sample("amd64")), assemble(sample("arm64"))})
	}
	first, second := both(), both()
	if !maps.EqualFunc(first, second, bytes.Equal) || len(first) != 3 {
		t.Errorf("%d and %d archives, which differ", len(first), len(second))
	}
	// What is the same in two versions is one blob.
	later := sample("amd64")
	later.program = []byte("another")
	if a, b := assemble(sample("amd64")), assemble(later); a.layers[0] != b.layers[0] || a.layers[1] == b.layers[1] {
		t.Errorf("layers of two programs are %q and %q, want the first alike", a.layers, b.layers)
	}
}

func TestNoRoots(t *testing.T) {
	t.Parallel()
	err := run(t.TempDir(), nil, t.TempDir()+"/absent.crt")
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "-roots") {
		t.Errorf("without root certificates: %v", err)
	}
}

func gunzip(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}
