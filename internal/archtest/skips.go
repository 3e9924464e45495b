package archtest

import (
	"fmt"
	"go/ast"
	"slices"
)

// Skips reports tests that are skipped for another reason than that they take long: what a machine lacks is for test/lack
// to say, which skips nothing where all tests have to run. Modules of their own cannot import that.
func (t *Tree) Skips() []string {
	var found []string
	for _, f := range t.Files {
		if !f.Test || f.Package == "test/lack" || f.Package == "deploy/release" {
			continue
		}
		var within []ast.Node
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if n == nil {
				within = within[:len(within)-1]
				return true
			}
			if skips(n) && !slices.ContainsFunc(within, isForLong) {
				found = append(found, fmt.Sprintf("%s: skips a test: call lack.Of of test/lack with what the machine lacks, or skip in an if of LONG or testing.Short alone", t.fset.Position(n.Pos())))
			}
			within = append(within, n)
			return true
		})
	}
	return found
}

// skips reports whether n names a method that skips a test.
func skips(n ast.Node) bool {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	on, ok := sel.X.(*ast.Ident)
	return ok && slices.Contains([]string{"t", "b", "tb", "f"}, on.Name) && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name)
}

// isForLong reports whether n is an if that asks how long tests may take.
func isForLong(n ast.Node) bool {
	branch, ok := n.(*ast.IfStmt)
	if !ok {
		return false
	}
	asks := false
	ast.Inspect(branch.Cond, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			asks = asks || n.Value == `"LONG"`
		case *ast.Ident:
			asks = asks || n.Name == "long" || n.Name == "Short"
		}
		return true
	})
	return asks
}
