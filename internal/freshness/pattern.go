package freshness

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	"container-registry-proxy/internal/glob"
)

// matcher says whether a text matches.
type matcher interface{ MatchString(s string) bool }

// everything matches all texts.
type everything struct{}

func (everything) MatchString(string) bool { return true }

// globbed matches what a glob does.
type globbed string

func (g globbed) MatchString(s string) bool { return glob.Match(string(g), s) }

// newMatcher takes a pattern of a rule: a regular expression between slashes, which matches anywhere in the text unless
// it says otherwise; or one of package glob. Empty means everything.
func newMatcher(pattern string, allowPCRE bool) (matcher, error) {
	switch {
	case pattern == "" || pattern == "*":
		return everything{}, nil
	case len(pattern) > maxFragment:
		return nil, fmt.Errorf("pattern has %d bytes: want at most %d", len(pattern), maxFragment)
	case strings.HasPrefix(pattern, "/"):
		expression, ok := strings.CutSuffix(pattern[1:], "/")
		if !ok || expression == "" {
			return nil, fmt.Errorf("pattern %q: want a slash at its end too, such as /^v[0-9]+$/", pattern)
		}
		return compilePattern("", expression, allowPCRE)
	}
	return globbed(pattern), nil
}

// compilePattern compiles what an operator wrote behind a prefix of ours: by RE2 where that is possible, else, if that is
// allowed, by an engine that backtracks.
func compilePattern(prefix, written string, allowPCRE bool) (matcher, error) {
	parsed, err := syntax.Parse(prefix+written, syntax.Perl)
	if err != nil {
		if allowPCRE {
			return compilePCRE(prefix, written)
		}
		return nil, explain(prefix, written, err)
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %v", written, err)
	}
	if len(prog.Inst) > maxProgram {
		return nil, fmt.Errorf("pattern %q repeats too much for a quick match: write * or + for the large counts", written)
	}
	return regexp.Compile(prefix + written)
}
