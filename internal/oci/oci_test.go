package oci

import (
	"errors"
	"strings"
	"testing"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParsePath(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		path string
		want Path
	}{
		{"/v2", Path{Kind: KindPing}},
		{"/v2/", Path{Kind: KindPing}},
		{"/v2/_catalog", Path{Kind: KindCatalog}},
		{"/v2/library/alpine/manifests/3.20", Path{Kind: KindManifest, Repository: "library/alpine", Tag: "3.20"}},
		{"/v2/a/manifests/" + someDigest, Path{Kind: KindManifest, Repository: "a", Digest: someDigest}},
		{"/v2/a/b/c/blobs/" + someDigest, Path{Kind: KindBlob, Repository: "a/b/c", Digest: someDigest}},
		{"/v2/a/blobs/uploads/", Path{Kind: KindUpload, Repository: "a"}},
		{"/v2/a/blobs/uploads/4e3f-1", Path{Kind: KindUpload, Repository: "a", Session: "4e3f-1"}},
		{"/v2/a/tags/list", Path{Kind: KindTags, Repository: "a"}},
		{"/v2/a/referrers/" + someDigest, Path{Kind: KindReferrers, Repository: "a", Digest: someDigest}},
		{"/v2/my/manifests/blobs/manifests/x", Path{Kind: KindManifest, Repository: "my/manifests/blobs", Tag: "x"}},
		{"/v2/a__b/c-d.e/manifests/sha256-abc.sig", Path{Kind: KindManifest, Repository: "a__b/c-d.e", Tag: "sha256-abc.sig"}},
	} {
		got, err := ParsePath(tc.path)
		if err != nil || got != tc.want {
			t.Errorf("ParsePath(%q) = %+v, %v, want %+v", tc.path, got, err, tc.want)
		}
		if tc.path != "/v2" && got.String() != tc.path {
			t.Errorf("ParsePath(%q).String() = %q", tc.path, got.String())
		}
	}
}

func TestParsePathRefuses(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"", "/", "/v2x/", "/v1/", "/v2/a", "/v2/a/manifests/", "/v2/a/manifests", "/v2//manifests/x", "/v2/a//b/manifests/x",
		"/v2/../etc/passwd", "/v2/a/../b/manifests/x", "/v2/a/%2e%2e/manifests/x", "/v2/a%2fb/manifests/x",
		"/v2/A/manifests/x", "/v2/a/manifests/.x", "/v2/a/manifests/x%00", "/v2/-a/manifests/x", "/v2/a-/manifests/x",
		"/v2/a___b/manifests/x", "/v2/a..b/manifests/x", "/v2/a/manifests/" + strings.Repeat("x", 129),
		"/v2/" + strings.Repeat("a", 256) + "/manifests/x", "/v2/a/blobs/latest", "/v2/a/blobs/sha256:abc",
		"/v2/a/blobs/sha256:" + strings.Repeat("g", 64), "/v2/a/blobs/" + strings.ToUpper(someDigest), "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e",
		"/v2/a/manifests/" + someDigest + "/x", "/v2/a/blobs/sha256:../../../../etc/passwd", `/v2/a\b/manifests/x`, "/v2/ä/manifests/x",
		"/v2/a/blobs/uploads/%2e%2e/%2e%2e/b/manifests/x", "/v2/a/blobs/uploads/x%2F..%2F..%2Fb", "/v2/a/blobs/uploads/x%5C..%5Cb",
		"/v2/a/blobs/uploads/%zz", "/v2/a%2Fb/blobs/uploads/%3D", "/v2/A/blobs/uploads/%3D",
	} {
		p, err := ParsePath(path)
		var wire *Error
		if !errors.As(err, &wire) {
			t.Errorf("ParsePath(%q) = %+v, %v, want an *Error", path, p, err)
		}
	}
}

func TestParseRegistry(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Registry{
		"quay.io": "quay.io", "QUAY.io.": "quay.io", "quay.io:443": "quay.io", "quay.io:5000": "quay.io:5000",
		"docker.io": DockerHub, "index.docker.io": DockerHub, "registry-1.docker.io:443": DockerHub, "registry-1.docker.io:5000": "registry-1.docker.io:5000",
		"[::1]:5000": "[::1]:5000", "[::1]": "[::1]", "127.0.0.1:443": "127.0.0.1",
	} {
		if got, err := ParseRegistry(in); err != nil || got != want {
			t.Errorf("ParseRegistry(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", ":443", "a b", "a/b", "a:0", "a:65536", "a:x", "a:+1", "a:01", "[a]", "a..b", "user@host", "a\x00", strings.Repeat("a", 400), "[::1", "::1"} {
		if got, err := ParseRegistry(in); err == nil {
			t.Errorf("ParseRegistry(%q) = %q, want an error", in, got)
		}
	}
	if r, err := ParsePlainRegistry("Reg.test:80"); err != nil || r != "http://reg.test" || r.Address() != "reg.test:80" || r.Scheme() != "http" {
		t.Errorf(`ParsePlainRegistry("Reg.test:80") = %q, %v with address %q`, r, err, r.Address())
	}
	if got := DockerHub.Address(); got != "registry-1.docker.io:443" {
		t.Errorf("address of Docker Hub is %q", got)
	}
}

func FuzzParsePath(f *testing.F) {
	f.Add("/v2/library/alpine/manifests/latest")
	f.Add("/v2/a/blobs/" + someDigest)
	f.Add("/v2/a/blobs/uploads/x")
	f.Add("/v2/a/blobs/uploads/x%2Fy%3D%3D")
	f.Fuzz(func(t *testing.T, path string) {
		p, err := ParsePath(path)
		if err != nil {
			return
		}
		if strings.Contains(p.Repository, "..") || strings.Contains(p.Tag, "/") || strings.ContainsAny(p.Repository+p.Tag, "\x00%\\") {
			t.Fatalf("ParsePath(%q) = %+v", path, p)
		}
		if again, err := ParsePath(p.String()); err != nil || again != p {
			t.Fatalf("ParsePath(%q) = %+v does not survive its own spelling: %+v, %v", path, p, again, err)
		}
	})
}

func FuzzParseRegistry(f *testing.F) {
	f.Add("registry-1.docker.io:443")
	f.Add("[::1]:5000")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRegistry(s)
		if err != nil {
			return
		}
		if again, err := ParseRegistry(string(r)); err != nil || again != r {
			t.Fatalf("ParseRegistry(%q) = %q does not survive itself: %q, %v", s, r, again, err)
		}
	})
}
