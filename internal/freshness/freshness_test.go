package freshness_test

import (
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/freshness"
)

// originals are the defaults of the nginx originals, switched on.
var originals = freshness.Config{
	Enabled:        true,
	PrimaryRegex:   `(stable|nightly|production|test)`,
	PrimaryFor:     10 * time.Minute,
	SecondaryRegex: `(.*)(\d|\.)+(.*)(\d|\.)+(.*)(\d|\.)+`,
	SecondaryFor:   60 * 24 * time.Hour,
	DefaultFor:     time.Hour,
}

func newRules(t testing.TB, cfg freshness.Config) *freshness.Rules {
	t.Helper()
	r, err := freshness.NewRules(cfg)
	if err != nil {
		t.Fatalf("NewRules(%+v): %v", cfg, err)
	}
	return r
}

// tierOf is the tier of a tag, and how long it is fresh.
func tierOf(r *freshness.Rules, repository, tag string) (time.Duration, string) {
	p := r.For("registry.test", repository, tag)
	return p.FreshFor, p.Tier
}

func TestTagsOfTheOriginalsTiers(t *testing.T) {
	t.Parallel()
	r := newRules(t, originals)
	for tag, want := range map[string]string{
		"stable":            "manifest-primary",
		"stable-1.2.3":      "manifest-primary", // the end is not anchored
		"testing":           "manifest-primary",
		"nightly":           "manifest-primary",
		"production":        "manifest-primary",
		"unstable":          "manifest-default", // the beginning is
		"Stable":            "manifest-default", // case counts
		"1.2.3":             "manifest-secondary",
		"v1.2.3-alpine":     "manifest-secondary",
		"1.2":               "manifest-secondary", // three digits or dots
		"123":               "manifest-secondary",
		"20261124":          "manifest-secondary",
		"alpine-3.20":       "manifest-secondary",
		"latest":            "manifest-default",
		"v1":                "manifest-default",
		"22":                "manifest-default",
		"main":              "manifest-default",
		"latest-production": "manifest-default",
		"sha256-" + strings.Repeat("0a", 32) + ".sig": "manifest-default", // written again with each signature
		"sha256-" + strings.Repeat("0a", 32):          "manifest-default",
		"sha512-" + strings.Repeat("0a", 64) + ".att": "manifest-default",
		"sha256-1.2.3": "manifest-secondary",
	} {
		if _, got := tierOf(r, "library/alpine", tag); got != want {
			t.Errorf("For(library/alpine, %q) is %s, want %s", tag, got, want)
		}
	}
}

func TestTiersHaveTheirTimes(t *testing.T) {
	t.Parallel()
	r := newRules(t, originals)
	for tag, want := range map[string]time.Duration{"stable": 10 * time.Minute, "1.2.3": 60 * 24 * time.Hour, "latest": time.Hour} {
		if got, _ := tierOf(r, "library/alpine", tag); got != want {
			t.Errorf("For(library/alpine, %q) = %v, want %v", tag, got, want)
		}
	}
}

func TestFragmentsMeanWhatTheyMeanInNginx(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, fragment, repository, tag string
		want                            bool
	}{
		{"anchored end", `stable$`, "app", "stable-1", false},
		{"anchored end reached", `stable$`, "app", "stable", true},
		{"first branch begins at the tag", `a|zz`, "app", "a1", true},
		{"first branch only there", `a|zz`, "app", "ba", false},
		{"second branch anywhere in the tag", `a|zz`, "app", "xzzx", true},
		{"second branch in the repository too", `a|zz`, "pizza/app", "x", true},
		{"in a group both begin at the tag", `(a|zz)`, "pizza/app", "x", false},
		{"doubled backslash", `v\\d+$`, "app", "v12", true},
		{"doubled backslash, no digit", `v\\d+$`, "app", "vd", false},
		{"case switched off by the pattern", `(?i)LATEST$`, "app", "latest", true},
		{"counted repetition", `[0-9a-f]{40}$`, "app", strings.Repeat("ab", 20), true},
		{"named group", `(?<major>\d+)\.x$`, "app", "3.x", true},
		{"repository with a part named manifests", `stable`, "org/manifests/app", "latest", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRules(t, freshness.Config{Enabled: true, PrimaryRegex: tt.fragment})
			_, cacheType := tierOf(r, tt.repository, tt.tag)
			if got := cacheType == "manifest-primary"; got != tt.want {
				t.Errorf("fragment %q, %s:%s: matches %v, want %v", tt.fragment, tt.repository, tt.tag, got, tt.want)
			}
		})
	}
}

func TestSwitchedOffEveryTagIsRevalidated(t *testing.T) {
	t.Parallel()
	cfg := originals
	cfg.Enabled = false
	cfg.PrimaryRegex = "(" // not looked at
	r := newRules(t, cfg)
	for _, tag := range []string{"stable", "1.2.3", "latest"} {
		if freshFor, cacheType := tierOf(r, "app", tag); freshFor != 0 || cacheType != "manifest-default-disabled" {
			t.Errorf("For(app, %q) = %v, %s, want 0s, manifest-default-disabled", tag, freshFor, cacheType)
		}
	}
}

func TestEmptyFragmentSwitchesItsTierOff(t *testing.T) {
	t.Parallel()
	cfg := originals
	cfg.PrimaryRegex, cfg.SecondaryRegex = "", ""
	r := newRules(t, cfg)
	for _, tag := range []string{"stable", "1.2.3"} {
		if _, cacheType := tierOf(r, "app", tag); cacheType != "manifest-default" {
			t.Errorf("For(app, %q) is %s, want manifest-default", tag, cacheType)
		}
	}
}

func TestRefusedFragmentsSayWhatToWriteInstead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, fragment, want string }{
		{"negative look-ahead", `(?!latest$)`, "list the tags that should match instead"},
		{"look-ahead", `stable(?=-arm64)`, "write what should follow as part of the pattern"},
		{"negative look-behind", `.*(?<!-rc)$`, "list the tags that should match instead"},
		{"look-behind", `.*(?<=-rc)$`, "write what should precede"},
		{"atomic group", `(?>a+)b`, "write a plain group"},
		{"possessive plus", `a++b`, "write a single +"},
		{"possessive star", `a*+b`, "write a single *"},
		{"back-reference", `(a|b)-\1`, "write the alternatives out"},
		{"named back-reference", `(?<n>a)-\k<n>`, "write the alternatives out"},
		{"end of PCRE", `stable\Z`, "write $"},
		{"open parenthesis", `(stable|nightly`, "missing closing )"},
		{"stray parenthesis", `stable)`, "unexpected )"},
		{"open bracket", `v[0-9`, "missing closing ]"},
		{"repeats far too much", `((a{100}){10})(b{1000})(c{1000})(d{1000})(e{1000})`, "repeats too much"},
		{"repeats beyond the parser's limit", `a{99999}`, "invalid repeat count"},
		{"far too long", strings.Repeat("a", 1025), "at most 1024"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := freshness.CheckFragment(tt.fragment, false)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("CheckFragment(%q) = %v, want an error with %q", tt.fragment, err, tt.want)
			}
			if strings.Contains(err.Error(), "/v2/") {
				t.Errorf("CheckFragment(%q) = %v: shows the prefix that nobody wrote", tt.fragment, err)
			}
			if _, err := freshness.NewRules(freshness.Config{Enabled: true, SecondaryRegex: tt.fragment}); err == nil || !strings.Contains(err.Error(), "secondary tier") {
				t.Errorf("NewRules with SecondaryRegex %q: %v, want an error that names the secondary tier", tt.fragment, err)
			}
		})
	}
}

func TestAllWrongTiersAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := freshness.NewRules(freshness.Config{Enabled: true, PrimaryRegex: "(", SecondaryRegex: ")", DefaultFor: -1})
	if err == nil {
		t.Fatal("NewRules accepted three mistakes")
	}
	for _, tier := range []string{"primary", "secondary", "default"} {
		if !strings.Contains(err.Error(), tier+" tier") {
			t.Errorf("NewRules: %v: does not name the %s tier", err, tier)
		}
	}
}

// A stranger chooses the tag. Patterns that take a backtracking matcher ages take this one microseconds; the bound is
// generous, and far below what backtracking would need.
func TestWorstTagsCostLittle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, fragment, tag string }{
		{"original's secondary", originals.SecondaryRegex, strings.Repeat("a", 126) + "1."},
		{"nested repetition", `(a+)+$`, strings.Repeat("a", 127) + "b"},
		{"overlapping branches", `(a|aa)+$`, strings.Repeat("a", 127) + "b"},
		{"three stars", `(.*)*(.*)*(.*)*z$`, strings.Repeat("a", 128)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRules(t, freshness.Config{Enabled: true, PrimaryRegex: tt.fragment})
			repository := strings.Repeat("a/", 127) + "a"
			start := time.Now()
			for range 100 {
				tierOf(r, repository, tt.tag)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("100 matches of %q took %v", tt.fragment, took)
			}
		})
	}
}

func FuzzRules(f *testing.F) {
	for _, fragment := range []string{originals.PrimaryRegex, originals.SecondaryRegex, "a|b", `(?!x)`, "a++", "(", `\1`, "[", `\\d`} {
		f.Add(fragment, "library/alpine", "1.2.3")
	}
	f.Fuzz(func(t *testing.T, fragment, repository, tag string) {
		r, err := freshness.NewRules(freshness.Config{Enabled: true, PrimaryRegex: fragment})
		if (err == nil) != (freshness.CheckFragment(fragment, false) == nil) {
			t.Fatalf("fragment %q: NewRules says %v, CheckFragment says %v", fragment, err, freshness.CheckFragment(fragment, false))
		}
		if err != nil || len(repository) > 255 || len(tag) > 128 {
			return
		}
		first, cacheType := tierOf(r, repository, tag)
		if second, again := tierOf(r, repository, tag); second != first || again != cacheType {
			t.Fatalf("fragment %q, %s:%s: two answers", fragment, repository, tag)
		}
	})
}

func BenchmarkFor(b *testing.B) {
	r := newRules(b, originals)
	for _, tag := range []string{"stable", "1.2.3", "latest"} {
		b.Run(tag, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				tierOf(r, "library/alpine", tag)
			}
		})
	}
}
