// Package glob matches the patterns of an operator's rules. In a glob * stands for any number of characters, none among
// them, and ? for one; every other character is itself, and a glob matches a whole text or not at all. No character is
// special to *, not / nor a newline. A byte that is no UTF-8 is a character of its own. Its invariant: a match takes time
// in proportion to the product of both lengths at most, whoever chooses the text, and no memory.
package glob

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Match reports whether a glob matches a text.
func Match(pattern, text string) bool {
	p, t, star, back := 0, 0, -1, 0 // back is where in the text the last * ends, star where in the pattern that is
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, back = p, t
			p++
		case p < len(pattern) && pattern[p] == '?':
			p, t = p+1, t+width(text[t:])
		case p < len(pattern) && pattern[p] == text[t]:
			p, t = p+1, t+1
		case star >= 0:
			back += width(text[back:])
			p, t = star+1, back
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// width is how many bytes the first character has.
func width(text string) int {
	_, n := utf8.DecodeRuneInString(text)
	return n
}

// Any reports whether one of the globs matches a text.
func Any(patterns []string, text string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return Match(pattern, text) })
}
