package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"container-registry-proxy/deploy/internal/build"
)

// companions are the files that come with the program: what it prints for shells, and what is in the repository.
func companions(program, version string, when time.Time) ([]file, error) {
	var files []file
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, err := exec.Command(program, "completion", shell).Output()
		if err != nil {
			return nil, fmt.Errorf("completion for %s: %w", shell, err)
		}
		files = append(files, file{"completions/" + shell, script, 0o644})
	}
	sources := map[string]string{
		"LICENSE": "LICENSE", "README.md": "README.md", "CHANGELOG.md": "CHANGELOG.md", build.Name + ".1": "deploy/release/" + build.Name + ".1",
		"systemd/" + build.Name + ".service": "deploy/systemd/" + build.Name + ".service",
		"systemd/" + build.Name + ".socket":  "deploy/systemd/" + build.Name + ".socket",
		"systemd/environment":                "deploy/systemd/environment",
	}
	pages, err := filepath.Glob("docs/*.md") // messages of the program name them
	if err != nil {
		return nil, err
	}
	for _, page := range pages {
		sources[page] = page
	}
	for name, source := range sources {
		content, err := os.ReadFile(source)
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(name, ".1") {
			content = []byte(strings.NewReplacer("@DATE@", when.Format(time.DateOnly), "@VERSION@", version).Replace(string(content)))
		}
		files = append(files, file{name, content, 0o644})
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return files, nil
}

// tarball is an archive of the files, below a directory of its name.
func tarball(name string, files []file, when time.Time) ([]byte, error) {
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	archive := tar.NewWriter(zip)
	for _, f := range files {
		header := &tar.Header{
			Name: name + "/" + f.name, Mode: int64(f.mode), Size: int64(len(f.content)), ModTime: when, Typeflag: tar.TypeReg, Format: tar.FormatPAX,
		}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// sums writes SHA256SUMS, as sha256sum -c reads it.
func (r *release) sums() error {
	slices.Sort(r.made)
	var lines strings.Builder
	for _, name := range r.made {
		content, err := os.ReadFile(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(content)
		fmt.Fprintf(&lines, "%s  %s\n", hex.EncodeToString(sum[:]), name)
	}
	return r.write("SHA256SUMS", []byte(lines.String()))
}
