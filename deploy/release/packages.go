package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // registers itself
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm" // registers itself

	"container-registry-proxy/deploy/internal/build"
)

// places are where the files go on a machine, by their names in an archive.
func places(format string) map[string]string {
	zsh := "/usr/share/zsh/site-functions/_" + build.Name
	if format == "deb" {
		zsh = "/usr/share/zsh/vendor-completions/_" + build.Name
	}
	return map[string]string{
		build.Name:                           "/usr/bin/" + build.Name,
		build.Name + ".1":                    "/usr/share/man/man1/" + build.Name + ".1",
		"completions/bash":                   "/usr/share/bash-completion/completions/" + build.Name,
		"completions/zsh":                    zsh,
		"completions/fish":                   "/usr/share/fish/vendor_completions.d/" + build.Name + ".fish",
		"systemd/" + build.Name + ".service": "/usr/lib/systemd/system/" + build.Name + ".service",
		"systemd/" + build.Name + ".socket":  "/usr/lib/systemd/system/" + build.Name + ".socket",
		"systemd/environment":                "/etc/" + build.Name + "/environment",
		"LICENSE":                            "/usr/share/doc/" + build.Name + "/copyright",
	}
}

// packages makes a .deb and an .rpm for an architecture.
func (r *release) packages(goarch string, all []file) error {
	for _, format := range []string{"deb", "rpm"} {
		contents, err := r.contents(format, goarch, all)
		if err != nil {
			return err
		}
		info := nfpm.WithDefaults(&nfpm.Info{
			Name: build.Name, Arch: goarch, Platform: "linux", Version: r.version, Section: "net", Priority: "optional", License: "Apache-2.0",
			Maintainer:  "The container-registry-proxy authors <authors@container-registry-proxy.invalid>",
			Description: "Caching proxy for container images\nIt sits between container clients and every registry, and keeps each layer once.",
			MTime:       r.when, DisableGlobbing: true,
			Overridables: nfpm.Overridables{
				Contents: contents, Recommends: []string{"ca-certificates"},
				Scripts: nfpm.Scripts{PostInstall: "deploy/release/postinstall.sh", PreRemove: "deploy/release/preremove.sh"},
				RPM:     nfpm.RPM{BuildHost: "localhost", Summary: "Caching proxy for container images", Group: "System Environment/Daemons"},
			},
		})
		packager, err := nfpm.Get(format)
		if err != nil {
			return err
		}
		if err := nfpm.PrepareForPackager(info, format); err != nil {
			return fmt.Errorf("%s: %w", format, err)
		}
		var out bytes.Buffer
		if err := packager.Package(info, &out); err != nil {
			return fmt.Errorf("%s: %w", format, err)
		}
		if err := r.write(packager.ConventionalFileName(info), out.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// contents writes the files where a packager finds them.
func (r *release) contents(format, goarch string, all []file) (files.Contents, error) {
	var contents files.Contents
	at := places(format)
	for _, f := range all {
		destination, ok := at[f.name]
		switch {
		case ok:
		case strings.HasSuffix(f.name, ".md"): // pages, whose links to each other hold
			destination = "/usr/share/doc/" + build.Name + "/" + f.name
		default:
			continue
		}
		source := filepath.Join(r.work, format+"-"+goarch, f.name)
		if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(source, f.content, 0o644); err != nil {
			return nil, err
		}
		content := &files.Content{
			Source: source, Destination: destination,
			FileInfo: &files.ContentFileInfo{Mode: f.mode, Owner: "root", Group: "root", MTime: r.when},
		}
		if f.name == "systemd/environment" {
			content.Type, content.FileInfo.Mode = files.TypeConfigNoReplace, 0o600 // it may hold logins
		}
		contents = append(contents, content)
	}
	return contents, nil
}
