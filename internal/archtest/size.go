package archtest

import (
	"fmt"
	"go/ast"
	"strings"
)

// Ceilings in lines. Nine files in ten are far below; what reaches one holds more than one idea.
const (
	maxFile     = 600
	maxTestFile = 1000
	maxFunction = 80
	maxLong     = 160
)

// longFunctions may have up to maxLong lines; each says in its comment why it is long.
func longFunctions() map[string]bool {
	return map[string]bool{
		"internal/app wire":      true, // straight-line wiring
		"internal/oci ParsePath": true, // one table in the form of code
	}
}

// Sizes reports files and functions that have grown too long.
func (t *Tree) Sizes() []string {
	var found []string
	for _, f := range t.Files {
		limit := maxFile
		if strings.HasSuffix(f.Path, "_test.go") {
			limit = maxTestFile
		}
		if f.Lines > limit {
			found = append(found, fmt.Sprintf("%s: %d lines, more than %d: find the second idea in it and give it a file of its own", f.Path, f.Lines, limit))
		}
		if f.Test {
			continue
		}
		for _, decl := range f.syntax.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok {
				found = append(found, t.tooLong(f, fn)...)
			}
		}
	}
	return found
}

func (t *Tree) tooLong(f File, fn *ast.FuncDecl) []string {
	limit := maxFunction
	if longFunctions()[f.Package+" "+fn.Name.Name] {
		limit = maxLong
	}
	start, end := t.fset.Position(fn.Pos()), t.fset.Position(fn.End())
	lines := end.Line - start.Line + 1
	if lines <= limit {
		return nil
	}
	return []string{fmt.Sprintf("%s: %s has %d lines, more than %d: name its steps and make them functions", start, fn.Name.Name, lines, limit)}
}

// PackageComments reports packages that do not say what they are for, or say it twice.
func (t *Tree) PackageComments() []string {
	first := map[string]string{}
	commented := map[string]string{}
	var packages, found []string
	for _, f := range t.Files {
		if strings.HasSuffix(f.Path, "_test.go") {
			continue
		}
		if first[f.Package] == "" {
			first[f.Package] = f.Path
			packages = append(packages, f.Package)
		}
		if f.syntax.Doc == nil {
			continue
		}
		if other := commented[f.Package]; other != "" {
			found = append(found, fmt.Sprintf("%s: package %s has its comment in %s already: keep one", f.Path, f.Package, other))
		}
		commented[f.Package] = f.Path
		want := "Package " + f.syntax.Name.Name + " "
		if f.syntax.Name.Name == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(f.syntax.Doc.Text(), want) {
			found = append(found, fmt.Sprintf("%s: the package comment does not begin with %q: say what the package is for, its one invariant, and what it does not do", f.Path, want))
		}
	}
	for _, dir := range packages {
		if commented[dir] == "" {
			found = append(found, fmt.Sprintf("%s: package %s has no comment: say above the package clause what it is for, its one invariant, and what it does not do", first[dir], dir))
		}
	}
	return found
}
