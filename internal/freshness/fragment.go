package freshness

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strings"
)

const (
	// prefix is what the originals put before a fragment.
	prefix = "^/v2/(.*)/manifests/"

	// maxFragment bounds what an operator may write. The originals' longest default has 37 bytes.
	maxFragment = 1 << 10

	// maxProgram bounds the compiled pattern, and with it the time of one match: the work is at most program × path,
	// and a path has fewer than 500 bytes. The originals' longest default compiles to 40 instructions.
	maxProgram = 4096
)

// CheckFragment says what is wrong with a fragment and what to write instead, or nothing.
func CheckFragment(fragment string, allowPCRE bool) error {
	_, err := compile(fragment, allowPCRE)
	return err
}

// compile puts the pattern together as the originals do. nginx reads two backslashes as one, in a fragment too; a tag
// holds none, so nothing else could be meant.
func compile(fragment string, allowPCRE bool) (matcher, error) {
	if len(fragment) > maxFragment {
		return nil, fmt.Errorf("pattern has %d bytes: want at most %d", len(fragment), maxFragment)
	}
	return compilePattern(prefix, strings.ReplaceAll(fragment, `\\`, `\`), allowPCRE)
}

// needsBacktracking are the ways to write what a linear-time matcher cannot do, each with a way around it.
var needsBacktracking = []struct{ mark, name, instead string }{
	{"(?!", "a negative look-ahead", `list the tags that should match instead, such as (stable|nightly|v\d+), or put the tags to be kept out into the other tier`},
	{"(?=", "a look-ahead", "write what should follow as part of the pattern, such as stable-arm64 for stable(?=-arm64)"},
	{"(?<!", "a negative look-behind", "list the tags that should match instead"},
	{"(?<=", "a look-behind", "write what should precede as part of the pattern"},
	{"(?>", "an atomic group", "write a plain group, (...): there is no backtracking to prevent"},
	{"(?|", "a branch reset", "write a plain group, (...)"},
	{"(?R", "a recursion", "write the repetition out"},
	{"(?(", "a condition", "write both cases as (a|b)"},
	{"(?#", "a comment", "leave it out"},
	{"++", "a possessive repetition", "write a single +: there is no backtracking to prevent"},
	{"*+", "a possessive repetition", "write a single *: there is no backtracking to prevent"},
	{"?+", "a possessive repetition", "write a single ?: there is no backtracking to prevent"},
	{"}+", "a possessive repetition", "leave the + out: there is no backtracking to prevent"},
	{`\Z`, `\Z`, "write $"},
	{`\K`, `\K`, "leave it out: only whether a tag matches counts"},
	{`\G`, `\G`, "leave it out: the pattern begins where the tag begins"},
	{`\h`, `\h`, "leave it out: a tag holds no space"},
	{`\R`, `\R`, "leave it out: a tag holds no line break"},
}

// explain turns the parser's error into one about the fragment, without the prefix that the operator never wrote.
func explain(prefix, fragment string, err error) error {
	for _, n := range needsBacktracking {
		if strings.Contains(fragment, n.mark) && refusesPerl(err) {
			return fmt.Errorf("pattern %q: %s needs PCRE, which could be made to match for ever; %s; or set ALLOW_PCRE=true", fragment, n.name, n.instead)
		}
	}
	var perr *syntax.Error
	if !errors.As(err, &perr) {
		return fmt.Errorf("pattern %q: %v", fragment, err)
	}
	if perr.Code == syntax.ErrInvalidEscape && len(perr.Expr) > 1 && strings.ContainsRune("123456789gk", rune(perr.Expr[1])) {
		return fmt.Errorf("pattern %q: a back-reference (%s) needs PCRE, which could be made to match for ever; write the alternatives out, such as (a-a|b-b); or set ALLOW_PCRE=true", fragment, perr.Expr)
	}
	if expr := strings.TrimPrefix(perr.Expr, prefix); expr != fragment && expr != "" {
		return fmt.Errorf("pattern %q: %s: %s; a right one is (stable|nightly)", fragment, perr.Code, expr)
	}
	return fmt.Errorf("pattern %q: %s; a right one is (stable|nightly)", fragment, perr.Code)
}

// refusesPerl reports whether the parser stumbled over syntax it does not know, rather than over a slip such as a
// missing parenthesis.
func refusesPerl(err error) bool {
	var perr *syntax.Error
	if !errors.As(err, &perr) {
		return false
	}
	switch perr.Code {
	case syntax.ErrInvalidPerlOp, syntax.ErrInvalidEscape, syntax.ErrInvalidRepeatOp, syntax.ErrInvalidNamedCapture, syntax.ErrMissingRepeatArgument:
		return true
	}
	return false
}
