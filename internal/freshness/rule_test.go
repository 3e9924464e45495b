package freshness_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/freshness"
	"container-registry-proxy/internal/oci"
)

func hours(n int) *time.Duration { return new(time.Duration(n) * time.Hour) }

func TestTheFirstRuleThatMatchesWins(t *testing.T) {
	t.Parallel()
	cfg := originals
	cfg.Rules = []freshness.Rule{
		{Registry: "dev.example.com:5000", NeverCache: true},
		{Registry: "docker.io", Repository: "nginx", Tag: "latest", FreshFor: hours(2)},
		{Registry: "*.example.com", Repository: "team/*", Tag: "v?", FreshFor: hours(3), KeepMissing: true},
		{Repository: "/^mirror/", Tag: "/-rc[0-9]+$/", FreshFor: hours(4), NeverStale: true},
		{Registry: "quay.io", StaleWhileRevalidate: time.Hour},
		{Tag: "sha256-*", FreshFor: hours(0)},
	}
	r := newRules(t, cfg)
	for _, tt := range []struct {
		registry        oci.Registry
		repository, tag string
		want            freshness.Policy
	}{
		{"dev.example.com:5000", "team/a", "v1", freshness.Policy{NeverCache: true, FreshFor: time.Hour, Tier: "manifest-default"}},
		{"docker.io", "library/nginx", "latest", freshness.Policy{FreshFor: 2 * time.Hour, Tier: "manifest-rule"}},
		{"docker.io", "library/nginx", "latest2", freshness.Policy{FreshFor: time.Hour, Tier: "manifest-default"}},
		{"docker.io", "my/nginx", "latest", freshness.Policy{FreshFor: time.Hour, Tier: "manifest-default"}},
		{"a.b.example.com", "team/a/b", "v1", freshness.Policy{FreshFor: 3 * time.Hour, KeepMissing: true, Tier: "manifest-rule"}},
		{"example.com", "team/a", "v1", freshness.Policy{FreshFor: time.Hour, Tier: "manifest-default"}},
		{"a.example.com", "team/a", "v10", freshness.Policy{FreshFor: time.Hour, Tier: "manifest-default"}},
		{"any.test", "mirror/x", "1.2-rc3", freshness.Policy{FreshFor: 4 * time.Hour, NeverStale: true, Tier: "manifest-rule"}},
		{"any.test", "my/mirror", "1.2-rc3", freshness.Policy{FreshFor: 60 * 24 * time.Hour, Tier: "manifest-secondary"}},
		{"quay.io", "a", "stable", freshness.Policy{FreshFor: 10 * time.Minute, StaleWhileRevalidate: time.Hour, Tier: "manifest-primary"}},
		{"any.test", "a", "sha256-" + strings.Repeat("1", 64) + ".sig", freshness.Policy{Tier: "manifest-rule"}},
	} {
		if got := r.For(tt.registry, tt.repository, tt.tag); got != tt.want {
			t.Errorf("For(%s, %s, %s) = %+v, want %+v", tt.registry, tt.repository, tt.tag, got, tt.want)
		}
	}
	if !r.KeepsMissing("a.example.com", "team/a") || r.KeepsMissing("a.example.com", "other") || r.KeepsMissing("quay.io", "team/a") {
		t.Error("KeepsMissing: want it for the repositories of the rule that keeps, and for no others")
	}
}

func TestRulesNeedNoManifestCache(t *testing.T) {
	t.Parallel()
	r := newRules(t, freshness.Config{DefaultFor: time.Hour, Rules: []freshness.Rule{{Tag: "stable", FreshFor: hours(1)}}})
	if got := r.For("quay.io", "a", "stable"); got.FreshFor != time.Hour || got.Tier != "manifest-rule" {
		t.Errorf("For = %+v", got)
	}
	if got := r.For("quay.io", "a", "latest"); got.FreshFor != 0 || got.Tier != "manifest-default-disabled" {
		t.Errorf("For = %+v", got)
	}
}

func TestRefusedPatternsOfRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ pattern, want string }{
		{`/^v[0-9]+`, "slash at its end"}, {`//`, "slash at its end"}, {`/(?!latest)/`, "ALLOW_PCRE=true"}, {`/(/`, "missing closing )"},
		{`/(a)\1/`, "ALLOW_PCRE=true"}, {strings.Repeat("a", 2000), "at most 1024"},
	} {
		if err := freshness.CheckRule(freshness.Rule{Tag: tt.pattern}, false); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("CheckRule(%.40q) = %v, want an error with %q", tt.pattern, err, tt.want)
		}
	}
	_, err := freshness.NewRules(freshness.Config{Rules: []freshness.Rule{{Tag: "/(/"}, {Registry: "quay.io/app"}, {FreshFor: hours(-1)}}})
	for _, want := range []string{"rule 1:", "rule 2:", "rule 3:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewRules: %v, want %q named", err, want)
		}
	}
}

// With the operator's leave PCRE's own features match as they do in nginx.
func TestPCREWhereItIsAllowed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fragment, tag string
		want          bool
	}{
		{`(?!latest$)`, "latest", false}, {`(?!latest$)`, "latest-1", true}, {`stable(?=-arm64)`, "stable-arm64", true}, {`stable(?=-arm64)`, "stable", false},
		{`.*(?<!-rc)$`, "1-rc", false}, {`.*(?<!-rc)$`, "1", true}, {`(a|b)-\2$`, "a-a", true}, {`(a|b)-\2$`, "a-b", false},
		{`v-\1$`, "v-app", true}, {`v-\1$`, "v-other", false}, // the first group is the repository, there too {`(?>a+)b`, "aab", true},
		{`(stable|nightly)`, "stable-1", true}, // RE2 runs what it can
	} {
		r := newRules(t, freshness.Config{Enabled: true, AllowPCRE: true, PrimaryRegex: tt.fragment})
		if _, tier := tierOf(r, "app", tt.tag); (tier == "manifest-primary") != tt.want {
			t.Errorf("fragment %q, tag %s: %s", tt.fragment, tt.tag, tier)
		}
	}
	if err := freshness.CheckFragment(`(?!(`, true); err == nil || strings.Contains(err.Error(), "/v2/") {
		t.Errorf("CheckFragment of a slip: %v", err)
	}
}

// catastrophic are patterns that a backtracking engine never ends with, and tags for them.
var catastrophic = []struct{ fragment, tag string }{
	{`(?!x)(a+)+$`, strings.Repeat("a", 120) + "!"},
	{`(?!x)(a|aa)+$`, strings.Repeat("a", 120) + "!"},
	{`(?!x)(.*)*(.*)*(.*)*z$`, strings.Repeat("a", 128)},
	{`(.*a){20}\2$`, strings.Repeat("a", 127) + "!"},
}

// A time-out counts as no match, and a tag costs it once, however many ask.
func TestACatastrophicTagCostsItsTimeOnce(t *testing.T) {
	t.Parallel()
	for _, tt := range catastrophic {
		r := newRules(t, freshness.Config{Enabled: true, AllowPCRE: true, PrimaryRegex: tt.fragment})
		start := time.Now()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 200 {
					if _, tier := tierOf(r, "app", tt.tag); tier == "manifest-primary" {
						t.Errorf("fragment %q matches %.20q…", tt.fragment, tt.tag)
					}
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took > 20*time.Second { // 1600 matches of 300 ms would be eight minutes
			t.Errorf("1600 questions about one tag took %v", took)
		}
	}
}

// BenchmarkWorstTags times the worst tags there are: against the originals' default pattern, and, the first time each,
// against an operator's own patterns that backtrack.
func BenchmarkWorstTags(b *testing.B) {
	secondary := originals
	secondary.PrimaryRegex = ""
	for _, tag := range []string{strings.Repeat("a", 126) + "1.", strings.Repeat("1.", 64), strings.Repeat("a", 128)} {
		b.Run("default secondary/"+tag[:4], func(b *testing.B) {
			r := newRules(b, secondary)
			for b.Loop() {
				tierOf(r, "library/app", tag)
			}
		})
	}
	for _, tt := range catastrophic {
		b.Run("pcre/"+tt.fragment, func(b *testing.B) {
			r := newRules(b, freshness.Config{Enabled: true, AllowPCRE: true, PrimaryRegex: tt.fragment})
			for n := 0; b.Loop(); n++ {
				tierOf(r, fmt.Sprint("app", n), tt.tag) // another text each time: nothing is remembered of it
			}
		})
	}
}
