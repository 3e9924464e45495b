package archtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// machinePath matches an absolute path that exists on one machine alone. Paths of the product (/ca, /etc, /var) and
// paths of a page (https://example.com/work/) are none.
var machinePath = regexp.MustCompile(`(?:^|[\s"'(=:` + "`" + `])/(?:work|tmp/work|root/go|home/\w+|Users/\w+)/`)

// MachinePaths reports text files that name a path of the machine they were written on: it means nothing on another.
func (t *Tree) MachinePaths() ([]string, error) {
	var found []string
	err := walk(t.Root, func(name string) error {
		data, err := os.ReadFile(filepath.Join(t.Root, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		if bytes.IndexByte(data, 0) >= 0 {
			return nil
		}
		for i, line := range strings.Split(string(data), "\n") {
			if hit := machinePath.FindString(line); hit != "" {
				found = append(found, fmt.Sprintf("%s:%d: has %q, a path of one machine: write a path from the root of the repository, or take it from the environment", name, i+1, strings.TrimSpace(hit)))
			}
		}
		return nil
	})
	return found, err
}

// Dependencies reports modules that the program is built with and that ARCHITECTURE.md does not account for.
func (t *Tree) Dependencies() ([]string, error) {
	page, err := os.ReadFile(filepath.Join(t.Root, "ARCHITECTURE.md"))
	if err != nil {
		return nil, err
	}
	var found []string
	seen := map[string]bool{}
	for _, f := range t.Files {
		for _, imported := range f.Imports {
			host, _, _ := strings.Cut(imported, "/")
			if f.Test || !strings.Contains(host, ".") || seen[imported] {
				continue
			}
			seen[imported] = true
			if !explained(string(page), imported) {
				found = append(found, fmt.Sprintf("%s: imports %s, of a module that ARCHITECTURE.md does not name: add a line there that says what it saves us", f.Path, imported))
			}
		}
	}
	return found, nil
}

// explained reports whether the page names the import path or one above it, as `host/owner/module`.
func explained(page, imported string) bool {
	for strings.Contains(imported, "/") {
		if strings.Contains(page, "`"+imported+"`") {
			return true
		}
		imported = imported[:strings.LastIndexByte(imported, '/')]
	}
	return false
}
