// Command image builds the program for amd64 and arm64 and puts it into container images, with neither a container engine
// nor a base image. Its invariant: the same source, Go release and root certificates give the same bytes, whoever builds
// them, where and when. The root certificates are those of the machine that builds; -roots names others.
//
//	container-registry-proxy-image.tar         both platforms, an OCI layout: for skopeo, podman and containerd
//	container-registry-proxy-image-amd64.tar   one platform: for "docker load", and an OCI layout too
//	container-registry-proxy-image-arm64.tar
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"container-registry-proxy/deploy/internal/build"
)

func main() {
	out := flag.String("o", "bin", "`directory` for the images")
	architectures := flag.String("arch", "amd64,arm64", "`architectures` to build for")
	roots := flag.String("roots", "/etc/ssl/certs/ca-certificates.crt", "PEM `file` with the root certificates that the image trusts")
	flag.Parse()
	if err := run(*out, strings.Split(*architectures, ","), *roots); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// run builds an image for each architecture and writes the files that hold them into the directory out.
func run(out string, architectures []string, roots string) error {
	certificates, err := os.ReadFile(roots)
	if err != nil {
		return fmt.Errorf("root certificates: %w: install ca-certificates, or name a PEM file with -roots", err)
	}
	when, err := build.Time()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var images []image
	for _, arch := range architectures {
		path := filepath.Join(dir, arch)
		if err := build.Program(path, "linux", arch); err != nil {
			return err
		}
		about, err := build.Read(path)
		if err != nil {
			return err
		}
		program, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		images = append(images, assemble(contents{
			program: program, roots: certificates, architecture: arch, created: when, version: about.Version, revision: about.Revision,
		}))
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for name, archive := range archives(images) {
		path := filepath.Join(out, name)
		if err := os.WriteFile(path, archive, 0o644); err != nil {
			return err
		}
		fmt.Println(path)
	}
	return nil
}
