package main

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// shop is a registry with images, and a proxy of its own directory before it.
type shop struct {
	t       *testing.T
	reg     *registrytest.Registry
	name    string // the registry by its address, which the system resolves
	environ []string
	address string
	stop    func()
}

func openShop(t *testing.T, reg *registrytest.Registry) *shop {
	t.Helper()
	_, port, err := net.SplitHostPort(reg.Host())
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{t: t, reg: reg, name: net.JoinHostPort(reg.HostMap()["registry.test"].Addr().String(), port)}
	dir := t.TempDir()
	s.environ = []string{
		"LISTEN=127.0.0.1:0", "ADMIN_LISTEN=127.0.0.1:0", "CACHE_DIRECTORY=" + filepath.Join(dir, "cache"), "CA_DIRECTORY=" + filepath.Join(dir, "ca"),
		"REGISTRIES=" + s.name, "UPSTREAM_CA_FILE=" + reg.CAFile(), "CACHE_MIN_FREE=0", "UPSTREAM_GIVE_UP=200ms",
	}
	return s
}

// open has the proxy run until stop is called, or the test ends.
func (s *shop) open() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	address, wait, err := startProxy(ctx, s.environ, slog.New(slog.DiscardHandler))
	if err != nil {
		cancel()
		s.t.Fatal(err)
	}
	s.address = address
	s.stop = func() {
		cancel()
		if err := wait(); err != nil {
			s.t.Errorf("Serve: %v", err)
		}
		s.stop = func() {}
	}
	s.t.Cleanup(func() { s.stop() })
}

// run runs a command against the proxy.
func (s *shop) run(args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	return execute(s.t, s.environ, args...)
}

func TestWarm(t *testing.T) {
	t.Parallel()
	s := openShop(t, registrytest.New(t, registrytest.Config{}))
	s.open()
	one := s.reg.PushImage("team/one", "1", registrytest.Bytes(1, 100_000), registrytest.Bytes(2, 100_000))
	many := s.reg.PushIndex("team/many", "latest", []string{"amd64", "arm64"}, registrytest.Bytes(3, 50_000))
	list := filepath.Join(t.TempDir(), "images")
	if err := os.WriteFile(list, []byte("# what we use\n"+s.name+"/team/many   # both\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := s.run("warm", "--proxy", s.address, "--platform", "linux/arm64", "--file", list, s.name+"/team/one:1")
	if code != 0 || stderr != "" || !strings.Contains(stdout, s.name+"/team/one:1  0.2 MiB") || !strings.Contains(stdout, "/team/many:latest") {
		t.Fatalf("warm: exit %d, %q, %q", code, stdout, stderr)
	}
	for d := range one.Blobs {
		if n := s.reg.Count("GET", "/blobs/"+string(d)); n != 1 {
			t.Errorf("the registry saw %d GETs of %s", n, d)
		}
	}
	for i, img := range many.Images {
		if n := s.reg.Count("GET", string(img.Config.Digest)); n != i {
			t.Errorf("%s: %d GETs of its configuration, want it for arm64 alone", img.Architecture, n)
		}
	}

	// What is cached is not fetched again, and the registry may be gone.
	s.reg.Forget()
	if code, _, stderr = s.run("warm", "--proxy", s.address, "--platform", "linux/arm64", s.name+"/team/many", s.name+"/team/one:1"); code != 0 {
		t.Errorf("again: exit %d, %s", code, stderr)
	}
	if n := s.reg.Count("GET", ""); n != 0 {
		t.Errorf("again: %d GETs: %q", n, registrytest.Paths(s.reg.Requests()))
	}
}

func TestWarmSaysWhatFailed(t *testing.T) {
	t.Parallel()
	s := openShop(t, registrytest.New(t, registrytest.Config{}))
	s.open()
	s.reg.PushImage("team/one", "1", registrytest.Bytes(1, 1000))
	s.reg.PushIndex("team/many", "1", []string{"amd64", "arm64"}, registrytest.Bytes(3, 1000))
	code, stdout, stderr := s.run("warm", "--proxy", s.address, "--platform", "linux/s390x", s.name+"/team/none:1", s.name+"/team/one:1", s.name+"/team/many:1", "other.test/app")
	if code != exitFailure || !strings.Contains(stdout, "/team/one:1") || !strings.Contains(stderr, "3 of 4") {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
	for _, want := range []string{"/team/none:1: ", "404", "no image for linux/s390x: there are linux/amd64, linux/arm64", "other.test/app:latest", "MIRROR_ALL_REGISTRIES"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("stderr %q does not say %q", stderr, want)
		}
	}
	if strings.Count(stderr, "team/none:1") != 1 {
		t.Errorf("stderr %q names an image twice", stderr)
	}
	for _, args := range [][]string{{"warm"}, {"warm", "Not an image"}, {"warm", "--parallel", "0", "nginx"}, {"warm", "--parallel", "all", "nginx"}, {"warm", "--proxy", "proxy", "nginx"}, {"export", "--proxy", "ftp://proxy:3128", "nginx"}, {"warm", "--platform", "amd64", "nginx"}, {"warm", "--file", "/no/such/file"}, {"export"}, {"import"}, {"import", "a", "b"}, {"import", "/no/such/file"}} {
		if code, _, stderr := s.run(append(args, "--help=false")...); code != exitUsage || !strings.Contains(stderr, "such") && !strings.Contains(stderr, "want") {
			t.Errorf("%q: exit %d, %q, want %d and what is right", args, code, stderr, exitUsage)
		}
	}
}

// Over an air gap: exported here, imported there, where no registry can be reached; by tag and by digest, for every kind
// of client.
func TestExportAndImport(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t, registrytest.Config{})
	here := openShop(t, reg)
	here.open()
	shared := registrytest.Bytes(3, 50_000)
	one := reg.PushImage("team/one", "1", registrytest.Bytes(1, 100_000), shared)
	many := reg.PushIndex("team/many", "latest", []string{"amd64", "arm64"}, shared)
	path := filepath.Join(t.TempDir(), "bundle.tar")
	code, _, stderr := here.run("export", "--proxy", here.address, "--platform", "linux/amd64", "--output", path, here.name+"/team/one:1", here.name+"/team/many")
	if code != 0 {
		t.Fatalf("export: exit %d, %s", code, stderr)
	}
	code, stdout, _ := here.run("export", "--proxy", here.address, "--platform", "linux/amd64", here.name+"/team/one:1", here.name+"/team/many")
	file, err := os.ReadFile(path)
	if err != nil || code != 0 || stdout != string(file) {
		t.Errorf("the same images make two bundles: exit %d, %d and %d bytes, %v", code, len(stdout), len(file), err)
	}
	wantLayout(t, file)
	if code, _, stderr := here.run("export", "--proxy", here.address, "--output", path, here.name+"/team/one:1"); code != exitUsage {
		t.Errorf("over a file that is there: exit %d, %s", code, stderr)
	}

	there := openShop(t, reg)
	reg.Set(func(f *registrytest.Faults) { f.Registry.Down = true })
	code, stdout, stderr = there.run("import", path)
	if code != 0 || !strings.Contains(stdout, here.name+"/team/one:1\n") || !strings.Contains(stdout, "images: 2") {
		t.Fatalf("import: exit %d, %q, %s", code, stdout, stderr)
	}
	if code, stdout, _ = there.run("import", path); code != 0 || !strings.Contains(stdout, "new blobs: 0") {
		t.Errorf("import again: exit %d, %q", code, stdout)
	}
	there.open()
	if code, _, stderr := there.run("import", path); code == 0 || !strings.Contains(stderr, "lock") && !strings.Contains(stderr, "in use") {
		t.Errorf("import below a running proxy: exit %d, %s", code, stderr)
	}
	if code, _, stderr = there.run("warm", "--proxy", there.address, "--platform", "linux/amd64", here.name+"/team/one:1", here.name+"/team/many", here.name+"/team/one@"+string(one.Digest)); code != 0 {
		t.Errorf("pull without a registry: exit %d, %s", code, stderr)
	}
	if code, _, stderr = there.run("warm", "--proxy", there.address, "--platform", "linux/arm64", here.name+"/team/many@"+string(many.Digest)); code != exitFailure {
		t.Errorf("pull of a platform that was not exported: exit %d, %s", code, stderr)
	}
}

// wantLayout reads a bundle as an OCI image layout.
func wantLayout(t *testing.T, file []byte) {
	t.Helper()
	in := tar.NewReader(bytes.NewReader(file))
	files := map[string][]byte{}
	for {
		header, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name] != nil {
			t.Errorf("%s is there twice", header.Name)
		}
		files[header.Name], _ = io.ReadAll(in)
	}
	if string(files["oci-layout"]) != `{"imageLayoutVersion":"1.0.0"}` || !bytes.Contains(files["index.json"], []byte("org.opencontainers.image.ref.name")) {
		t.Errorf("oci-layout %q, index.json %q", files["oci-layout"], files["index.json"])
	}
	for name, body := range files {
		if hex, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && oci.FromBytes(body).Hex() != hex {
			t.Errorf("%s has other bytes", name)
		}
	}
	if len(files) != 2+2+1+2+3 { // layout; two manifests and an index; two configurations; three layers, of which two are shared
		t.Errorf("%d files", len(files))
	}
}

// Nothing of a bundle gets into the cache that is not what it is called.
func TestBadBundles(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t, registrytest.Config{})
	body := []byte("some bytes")
	name := "blobs/sha256/" + oci.FromBytes(body).Hex()
	bundle := func(files ...string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := 0; i+1 < len(files); i += 2 {
			_ = w.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644})
			_, _ = io.WriteString(w, files[i+1])
		}
		_ = w.Close()
		return b.Bytes()
	}
	for what, tt := range map[string]struct {
		file []byte
		want string
	}{
		"no tar":           {[]byte(strings.Repeat("x", 2000)), "want a tar file"},
		"empty":            {bundle(), "index.json"},
		"wrong bytes":      {bundle(name, "other bytes"), "hash to something else"},
		"wrong name":       {bundle("blobs/sha256/xyz", "a"), "blobs/sha256/xyz"},
		"no index":         {bundle(name, string(body)), "index.json"},
		"no images":        {bundle("index.json", `{"manifests":[]}`), "names no image"},
		"image not named":  {bundle("index.json", `{"manifests":[{"digest":"`+string(oci.FromBytes(body))+`"}]}`), "is not named"},
		"only a tag":       {bundle("index.json", `{"manifests":[{"digest":"`+string(oci.FromBytes(body))+`","annotations":{"org.opencontainers.image.ref.name":"3.20"}}]}`), `by "3.20" alone`},
		"no media type":    {bundle("index.json", `{"manifests":[{"digest":"`+string(oci.FromBytes(body))+`","annotations":{"org.opencontainers.image.ref.name":"quay.io/a:1"}}]}`), "media type"},
		"manifest missing": {bundle("index.json", `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"`+string(oci.FromBytes(body))+`","annotations":{"org.opencontainers.image.ref.name":"quay.io/a:1"}}]}`), "not in the bundle"},
		"cut off":          {bundle(name, string(body))[:515], "unexpected EOF"},
	} {
		s := openShop(t, reg)
		path := filepath.Join(t.TempDir(), "bundle.tar")
		if err := os.WriteFile(path, tt.file, 0o600); err != nil {
			t.Fatal(err)
		}
		if code, stdout, stderr := s.run("import", path); code != exitFailure || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d, %q, %q, want %q", what, code, stdout, stderr, tt.want)
		}
	}
}
