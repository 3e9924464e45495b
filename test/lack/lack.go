// Package lack is for tests that cannot run everywhere. Its invariant: where all tests have to run, which is what CI=true
// says, none is skipped for what a machine lacks.
package lack

import (
	"fmt"
	"os"
	"testing"
)

// Of ends a test on a machine that lacks what it needs: it is skipped, and under CI=true it has failed.
func Of(t testing.TB, format string, args ...any) {
	t.Helper()
	what := "this machine lacks what the test needs: " + fmt.Sprintf(format, args...)
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}
