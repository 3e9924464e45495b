// Command release makes what is published of a version: static programs in archives, packages for Debian and for RPM, what
// each program is made of, and checksums. Its invariant: the same source and Go release give the same bytes, whoever
// builds them, where and when. It needs no network once the modules are there.
//
//	container-registry-proxy_VERSION_linux_amd64.tar.gz         the program, completions, man page, systemd units; darwin too
//	container-registry-proxy_VERSION_amd64.deb, .x86_64.rpm     arm64 and aarch64 too
//	container-registry-proxy_VERSION_linux_amd64.cdx.json       an SBOM, CycloneDX
//	SHA256SUMS
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"container-registry-proxy/deploy/internal/build"
)

func main() {
	root := flag.String("root", "../..", "`directory` of the repository")
	out := flag.String("o", "bin/release", "`directory` for what is made, from the root of the repository")
	platforms := flag.String("platforms", "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64", "`platforms` to build for")
	flag.Parse()
	if err := os.Chdir(*root); err != nil { // the program is built as its own module says
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
	if err := run(*out, strings.Split(*platforms, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is what all that is made has in common.
type release struct {
	out     string // directory
	work    string // directory for what is on its way
	when    time.Time
	version string
	files   []file // beside the program
	made    []string
}

// file is one of those that come with the program.
type file struct {
	name    string // in an archive
	content []byte
	mode    os.FileMode
}

// run makes everything for these platforms in the directory out. The working directory is the root of the repository.
func run(out string, platforms []string) error {
	when, err := build.Time()
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	r := &release{out: out, work: work, when: when}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	host := filepath.Join(work, "host")
	if err := build.Program(host, runtime.GOOS, runtime.GOARCH); err != nil {
		return err
	}
	about, err := build.Read(host)
	if err != nil {
		return err
	}
	r.version = about.Version
	if r.version == "" || r.version == "devel" {
		r.version = "0.0.0-devel"
	}
	if r.files, err = companions(host, r.version, when); err != nil {
		return err
	}
	for _, platform := range platforms {
		goos, goarch, ok := strings.Cut(platform, "/")
		if !ok {
			return fmt.Errorf("platform %q: want one such as linux/amd64", platform)
		}
		if err := r.platform(goos, goarch); err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
	}
	return r.sums()
}

// platform makes what there is for one.
func (r *release) platform(goos, goarch string) error {
	path := filepath.Join(r.work, goos+"-"+goarch)
	if err := build.Program(path, goos, goarch); err != nil {
		return err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	name := build.Name + "_" + r.version + "_" + goos + "_" + goarch
	files := append([]file{{build.Name, program, 0o755}}, r.files...)
	archive, err := tarball(name, files, r.when)
	if err != nil {
		return err
	}
	if err := r.write(name+".tar.gz", archive); err != nil {
		return err
	}
	about, err := build.Read(path)
	if err != nil {
		return err
	}
	bill, err := billOfMaterials(about, r.version, program, r.when)
	if err != nil {
		return err
	}
	if err := r.write(name+".cdx.json", bill); err != nil {
		return err
	}
	if goos != "linux" {
		return nil
	}
	return r.packages(goarch, files)
}

func (r *release) write(name string, content []byte) error {
	r.made = append(r.made, name)
	path := filepath.Join(r.out, name)
	fmt.Println(path)
	return os.WriteFile(path, content, 0o644)
}
