package archtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// layers are the rows of packages, the highest first. A package sees those of lower rows, never its own row or a higher
// one. This table is the one in ARCHITECTURE.md.
func layers() [][]string {
	return [][]string{
		{"cmd/container-registry-proxy"},
		{"internal/app"},
		{"internal/registry", "internal/proxy", "internal/admin", "internal/demo", "internal/doctor", "internal/bundle"},
		{"internal/cache"},
		{"internal/access"},
		{"internal/fill"},
		{"internal/upstream", "internal/store/disk", "internal/metadata"},
		{"internal/upstream/auth", "internal/store", "internal/mitm", "internal/accesslog", "internal/setup", "internal/gather"},
		{"internal/config"},
		{"internal/credential", "internal/client", "internal/ratelimit", "internal/pull"},
		{"internal/freshness", "internal/dial", "internal/secret"},
		{"internal/oci", "internal/durable", "internal/via", "internal/garbage", "internal/glob", "internal/lines", "internal/memo", "internal/until"},
	}
}

// forTests reports whether a package is for tests alone, or for making packages of the program: it is no part of it.
func forTests(dir string) bool {
	top, _, _ := strings.Cut(dir, "/")
	return slices.Contains([]string{"test", "bench", "deploy"}, top) ||
		slices.Contains([]string{"internal/registrytest", "internal/store/storetest", "internal/archtest"}, dir)
}

// rowOf is the index of a package's row, or -1.
func rowOf(dir string) int {
	return slices.IndexFunc(layers(), func(row []string) bool { return slices.Contains(row, dir) })
}

// Layers reports imports that do not point down, and packages that have no place. Tests may look anywhere.
func (t *Tree) Layers() []string {
	var found []string
	for _, f := range t.Files {
		if f.Test {
			continue
		}
		from := rowOf(f.Package)
		if from < 0 {
			found = append(found, fmt.Sprintf("%s: package %s is in no layer: give it a row in internal/archtest/layers.go and in the table of ARCHITECTURE.md, above all it imports", f.Path, f.Package))
			continue
		}
		for _, imported := range f.Imports {
			if dir, ok := t.own(imported); ok {
				found = append(found, wrongWay(f, from, dir)...)
			}
		}
	}
	return found
}

func wrongWay(f File, from int, dir string) []string {
	to := rowOf(dir)
	switch {
	case forTests(dir):
		return []string{fmt.Sprintf("%s: imports %s, which is for tests alone: move what is needed into a package of its own, or the importer into a _test.go file", f.Path, dir)}
	case to < 0:
		return nil // reported where the package itself is
	case to == from:
		return []string{fmt.Sprintf("%s: imports %s sideways: packages of one row do not see each other; declare an interface of what is needed in %s and let internal/app connect them", f.Path, dir, path.Base(f.Package))}
	case to < from:
		return []string{fmt.Sprintf("%s: imports %s upwards: declare an interface of what is needed in %s and let internal/app connect them, or move the shared words down", f.Path, dir, path.Base(f.Package))}
	}
	return nil
}
