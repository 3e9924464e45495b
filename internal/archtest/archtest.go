// Package archtest holds the rules that keep this program small enough to understand: which package may import which,
// what nobody may import, how long a file may be. Its invariant: a rule is data with a check, and every violation says
// what to do about it. It reads the source with go/parser, so a test that passed is run again when a file changes. It is
// imported by nothing; its own test runs the checks over the repository.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// Tree is the parsed source of a repository.
type Tree struct {
	Root   string
	Module string // path of the module
	Files  []File
	fset   *token.FileSet
}

// File is one Go file.
type File struct {
	Path    string   // from the root, with slashes
	Package string   // directory from the root: "internal/oci"
	Imports []string // import paths
	Lines   int
	Test    bool // a _test.go file, or one of a package for tests alone
	syntax  *ast.File
}

// Load parses every Go file below root, but for what git ignores and what Go ignores.
func Load(root string) (*Tree, error) {
	t := &Tree{Root: root, fset: token.NewFileSet()}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", root, err)
	}
	first, _, _ := strings.Cut(string(mod), "\n")
	t.Module = strings.TrimSpace(strings.TrimPrefix(first, "module"))
	err = walk(root, func(name string) error {
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		return t.add(name)
	})
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", root, err)
	}
	return t, nil
}

// walk visits the files of the repository by their path from root.
func walk(root string, visit func(name string) error) error {
	return fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if hidden := strings.HasPrefix(entry.Name(), ".") && name != "." && name != ".ci"; hidden || name == "bin" {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		return visit(name)
	})
}

func (t *Tree) add(name string) error {
	src, err := os.ReadFile(filepath.Join(t.Root, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	syntax, err := parser.ParseFile(t.fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	f := File{Path: name, Package: path.Dir(name), Lines: strings.Count(string(src), "\n"), syntax: syntax}
	f.Test = strings.HasSuffix(name, "_test.go") || forTests(f.Package)
	for _, spec := range syntax.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
		}
		f.Imports = append(f.Imports, imported)
	}
	t.Files = append(t.Files, f)
	return nil
}

// own returns the directory that an import of this module names.
func (t *Tree) own(imported string) (dir string, ok bool) {
	return strings.CutPrefix(imported, t.Module+"/")
}
