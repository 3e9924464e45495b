package glob

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern string
		yes, no []string
	}{
		{"", []string{""}, []string{"x"}},
		{"a", []string{"a"}, []string{"", "A", "ab", "ba"}},
		{"*", []string{"", "a", "a/b", "a\nb"}, nil},
		{"**", []string{"", "ab"}, nil},
		{"?", []string{"a", "é", "\n", "\xff"}, []string{"", "ab", "éa"}},
		{"a*c", []string{"ac", "abc", "abbc", "acc"}, []string{"abcd", "bac"}},
		{"team/*", []string{"team/", "team/a/b"}, []string{"team", "teams/a"}},
		{"*.a.*", []string{"x.a.y", ".a.", "a.a.a.a"}, []string{"x.b.y", "a."}},
		{"?b", []string{"ab", "üb"}, []string{"b", "bb "}},
		{"*??b", []string{"éab", "ééb"}, []string{"éb", "b"}},
		{"v1.?", []string{"v1.2"}, []string{"v1.22", "v112"}},
		{"[a]+(b)|^$\\.", []string{"[a]+(b)|^$\\."}, []string{"a"}},
		{"é*", []string{"é", "éa"}, []string{"\xc3", "e"}},
	} {
		for _, text := range tt.yes {
			if !Match(tt.pattern, text) {
				t.Errorf("%q does not match %q", tt.pattern, text)
			}
		}
		for _, text := range tt.no {
			if Match(tt.pattern, text) {
				t.Errorf("%q matches %q", tt.pattern, text)
			}
		}
	}
	if !Any([]string{"a", "b*"}, "bc") || Any([]string{"a", "b"}, "bc") || Any(nil, "") {
		t.Error("Any does not say whether one matches")
	}
}

// oracle is the same by other means.
func oracle(pattern, text string) bool {
	expression := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile("(?s)^" + expression + "$").MatchString(text)
}

func TestMatchAgreesWithExpressions(t *testing.T) {
	t.Parallel()
	draw := func(r *rand.Rand, of []string) string {
		var b strings.Builder
		for range r.IntN(9) {
			b.WriteString(of[r.IntN(len(of))])
		}
		return b.String()
	}
	r := rand.New(rand.NewPCG(1, 1))
	matched := 0
	for range 5000 {
		pattern, text := draw(r, []string{"*", "*", "?", "a", "b", "é", "."}), draw(r, []string{"a", "a", "b", "é", "ü", ".", "\n"})
		want := oracle(pattern, text)
		if Match(pattern, text) != want {
			t.Errorf("%q matches %q: %t", pattern, text, !want)
		}
		if want {
			matched++
		}
	}
	if matched < 200 {
		t.Errorf("only %d texts matched: the draw tries too little", matched)
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("*a?b*", "xxaybz")
	f.Add("*é?", "éé")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if pattern != strings.ToValidUTF8(pattern, "") || len(pattern) > 100 {
			return // an expression cannot say it
		}
		if got, want := Match(pattern, text), oracle(pattern, text); got != want {
			t.Errorf("%q matches %q: %t", pattern, text, got)
		}
	})
}
