package oci_test

import (
	"strings"
	"testing"

	"container-registry-proxy/internal/oci"
)

func TestParseReference(t *testing.T) {
	t.Parallel()
	d := "sha256:" + strings.Repeat("0a", 32)
	for in, want := range map[string]string{
		"nginx": "docker.io/library/nginx:latest", "nginx:1.27": "docker.io/library/nginx:1.27", "org/app": "docker.io/org/app:latest",
		"docker.io/nginx": "docker.io/library/nginx:latest", "index.docker.io/org/app:1": "docker.io/org/app:1", "registry-1.docker.io/library/nginx": "docker.io/library/nginx:latest",
		"quay.io/org/app": "quay.io/org/app:latest", "localhost/app": "localhost/app:latest", "localhost:5000/app:1": "localhost:5000/app:1", "reg.example.com:5000/a/b/c:v1": "reg.example.com:5000/a/b/c:v1",
		"nginx@" + d: "docker.io/library/nginx@" + d, "quay.io/app:1@" + d: "quay.io/app@" + d,
	} {
		got, err := oci.ParseReference(in)
		if err != nil || got.String() != want {
			t.Errorf("ParseReference(%q) = %v, %v, want %s", in, got, err, want)
			continue
		}
		if again, err := oci.ParseReference(got.String()); err != nil || again != got {
			t.Errorf("ParseReference(%q) = %v, %v, want the same again", got, again, err)
		}
	}
	for _, in := range []string{"", ":", "nginx:", "Nginx", "nginx@sha256:12", "quay.io/", "quay.io/app:-1", "a b", "https://quay.io/app", "nginx@" + d + "@" + d} {
		if got, err := oci.ParseReference(in); err == nil || !strings.Contains(err.Error(), "docker.io/library/alpine:3.20") {
			t.Errorf("ParseReference(%q) = %v, %v, want an error that shows a right one", in, got, err)
		}
	}
}
