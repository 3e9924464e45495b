package freshness

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// matcher says whether a text matches.
type matcher interface{ MatchString(s string) bool }

// everything matches all texts.
type everything struct{}

func (everything) MatchString(string) bool { return true }

// literal matches one text.
type literal string

func (l literal) MatchString(s string) bool { return s == string(l) }

// newMatcher takes a pattern of a rule: a regular expression between slashes, which matches anywhere in the text unless
// it says otherwise; or a glob that matches the whole text, in which * stands for any number of characters and ? for
// one. Empty means everything.
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
	case !strings.ContainsAny(pattern, "*?"):
		return literal(pattern), nil
	}
	var b strings.Builder
	b.WriteString("^")
	for _, r := range pattern {
		switch r {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteString(".")
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	return regexp.Compile(b.String() + "$")
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
