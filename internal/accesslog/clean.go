package accesslog

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxText bounds one string of a record. The longest honest one, an error that wraps others, has a few hundred bytes.
const maxText = 1024

// clean makes a stranger's string fit for a log that people read on terminals: at most maxText bytes of printable
// characters, and without what a URL may carry of secrets. A string that needs no change, which is nearly all of them,
// costs no allocation.
func clean(s string) string {
	if harmless(s) {
		return s
	}
	cut := false
	if len(s) > 4*maxText {
		// Enough to bound the work; redaction only shortens, so the result still has up to maxText bytes.
		s, cut = s[:4*maxText], true
	}
	s = printable(cutUserinfo(cutQueries(s)))
	if len(s) > maxText {
		end := maxText - len("…")
		for !utf8.RuneStart(s[end]) {
			end--
		}
		s, cut = s[:end], true
	}
	if cut {
		return s + "…"
	}
	return s
}

func harmless(s string) bool {
	if len(s) > maxText {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '?' || c == '@' {
			return false
		}
	}
	return true
}

// printable replaces what is not: control characters, escapes, line separators, marks that turn the direction of
// writing, bytes that are not UTF-8.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// cutQueries cuts the query from every URL in a text: the signature of a CDN's URL is as good as a password while it
// lasts. A question mark that no parameter follows is left alone.
func cutQueries(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteByte('?')
		end := strings.IndexFunc(after, endsURL)
		if end < 0 {
			end = len(after)
		}
		if strings.Contains(after[:end], "=") {
			b.WriteString("…")
			after = after[end:]
		}
		s = after
	}
}

// cutUserinfo cuts user and password from every URL in a text.
func cutUserinfo(s string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "://")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteString("://")
		end := strings.IndexFunc(after, func(r rune) bool { return r == '/' || r == '?' || endsURL(r) })
		if end < 0 {
			end = len(after)
		}
		if at := strings.LastIndexByte(after[:end], '@'); at >= 0 {
			b.WriteString("…")
			after = after[at:]
		}
		s = after
	}
}

// endsURL reports whether r cannot be part of a URL as errors quote them.
func endsURL(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("\"'<>\\`", r) }
