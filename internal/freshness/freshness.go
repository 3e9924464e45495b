// Package freshness says how long a tag is served without asking upstream, and what is done with it beyond that: by the
// first of the operator's rules that matches, else by the nginx originals' three tiers. Nothing is read or written. Its
// invariant: an answer costs time linear in the length of repository and tag, whatever the operator's patterns and a
// stranger's tag are; where the operator has allowed patterns that cannot promise that, a match is given up after
// 300 ms, and a tag costs that once.
package freshness

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"container-registry-proxy/internal/memo"
	"container-registry-proxy/internal/oci"
)

// Config is the manifest cache in three tiers, as the nginx originals have it. The zero value is the manifest cache
// switched off: every tag is revalidated each time it is asked for.
//
// A fragment is a regular expression that continues "^/v2/(.*)/manifests/" in the way text is put together, and is
// matched against "/v2/<repository>/manifests/<tag>". So it is case-sensitive, it begins where the tag begins, it need
// not reach the tag's end ("stable" holds for "stable-1.2.3"; "stable$" does not), and the second branch of "a|b"
// holds wherever a b occurs in the path, since the path before the fragment belongs to the first branch.
type Config struct {
	// Enabled switches the tiers on. While it is false no tag is fresh, and the fields below are not looked at.
	Enabled bool

	// PrimaryRegex is the fragment that a tag of the primary tier matches. Empty means that no tag does.
	PrimaryRegex string

	// PrimaryFor is how long a tag of the primary tier is fresh. Zero means it is revalidated each time.
	PrimaryFor time.Duration

	// SecondaryRegex is the fragment that a tag of the secondary tier matches, if it is not of the primary one. Empty
	// means that no tag does.
	SecondaryRegex string

	// SecondaryFor is how long a tag of the secondary tier is fresh. Zero means it is revalidated each time.
	SecondaryFor time.Duration

	// DefaultFor is how long every other tag is fresh. Zero means it is revalidated each time.
	DefaultFor time.Duration

	// Rules go before the tiers, whether those are switched on or not; the first that matches wins.
	Rules []Rule

	// Pins are references whose meaning is kept whatever becomes of it upstream.
	Pins []oci.Reference

	// AllowPCRE has patterns that RE2 cannot match matched by an engine that backtracks.
	AllowPCRE bool
}

// The names of the tiers, as the originals report them in a response header.
const (
	typePrimary   = "manifest-primary"
	typeSecondary = "manifest-secondary"
	typeDefault   = "manifest-default"
	typeDisabled  = "manifest-default-disabled"
)

// Rules tell what is done with a tag. They are safe for concurrent use.
type Rules struct {
	rules       []rule
	pins        []oci.Reference
	tiers       []tier // the first that matches wins
	defaultFor  time.Duration
	defaultType string
	policies    *memo.Memo[tag, Policy] // nil where patterns may backtrack: what they gave up is no answer to keep
}

// tag is what rules are asked about.
type tag struct {
	registry         oci.Registry
	repository, name string
}

func (t tag) clone() tag {
	return tag{oci.Registry(strings.Clone(string(t.registry))), strings.Clone(t.repository), strings.Clone(t.name)}
}

// maxPolicies bounds the policies that are remembered.
const maxPolicies = 4 << 10

type tier struct {
	pattern   matcher
	freshFor  time.Duration
	cacheType string
}

// NewRules compiles the patterns of cfg. Its error names every rule and tier whose pattern is refused, and every time that
// is negative.
func NewRules(cfg Config) (*Rules, error) {
	r := &Rules{pins: cfg.Pins, defaultFor: cfg.DefaultFor, defaultType: typeDefault}
	if !cfg.AllowPCRE {
		r.policies = memo.New(maxPolicies, tag.clone, func(t tag) Policy { return r.policy(t.registry, t.repository, t.name) })
	}
	var errs []error
	for i, written := range cfg.Rules {
		compiled, err := compileRule(written, cfg.AllowPCRE)
		if err != nil {
			errs = append(errs, fmt.Errorf("rule %d: %w", i+1, err))
		}
		r.rules = append(r.rules, compiled)
	}
	if !cfg.Enabled {
		r.defaultFor, r.defaultType = 0, typeDisabled
		return r.orError(errors.Join(errs...))
	}
	errs = append(errs,
		r.add("primary", cfg.PrimaryRegex, cfg.AllowPCRE, tier{freshFor: cfg.PrimaryFor, cacheType: typePrimary}),
		r.add("secondary", cfg.SecondaryRegex, cfg.AllowPCRE, tier{freshFor: cfg.SecondaryFor, cacheType: typeSecondary}),
	)
	if cfg.DefaultFor < 0 {
		errs = append(errs, fmt.Errorf("default tier: fresh for %v: want zero or more", cfg.DefaultFor))
	}
	return r.orError(errors.Join(errs...))
}

func (r *Rules) orError(err error) (*Rules, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}

// add puts a tier behind those that are there, unless it has no fragment.
func (r *Rules) add(name, fragment string, allowPCRE bool, t tier) error {
	if t.freshFor < 0 {
		return fmt.Errorf("%s tier: fresh for %v: want zero or more", name, t.freshFor)
	}
	if fragment == "" {
		return nil
	}
	pattern, err := compile(fragment, allowPCRE)
	if err != nil {
		return fmt.Errorf("%s tier: %w", name, err)
	}
	t.pattern = pattern
	r.tiers = append(r.tiers, t)
	return nil
}

// For returns what is done with a tag.
func (r *Rules) For(registry oci.Registry, repository, name string) Policy {
	if r.policies == nil {
		return r.policy(registry, repository, name)
	}
	return r.policies.Of(tag{registry, repository, name})
}

func (r *Rules) policy(registry oci.Registry, repository, tag string) Policy {
	p := r.byRule(registry, repository, tag)
	if len(r.pins) > 0 && r.Pinned(registry, repository, tag) {
		p.KeepMissing, p.NeverCache = true, false
	}
	return p
}

func (r *Rules) byRule(registry oci.Registry, repository, tag string) Policy {
	for _, rule := range r.rules {
		if rule.of(registry, repository) && rule.tag.MatchString(tag) {
			if rule.FreshFor != nil {
				return rule.apply(Policy{})
			}
			return rule.apply(r.tierOf(repository, tag))
		}
	}
	return r.tierOf(repository, tag)
}

// KeepsMissing reports whether a rule may keep tags of a repository that its registry says are not there any more: then
// what they consist of is kept as well.
func (r *Rules) KeepsMissing(registry oci.Registry, repository string) bool {
	for _, rule := range r.rules {
		if rule.KeepMissing && rule.of(registry, repository) {
			return true
		}
	}
	return r.pinsIn(registry, repository)
}

func (r *Rules) tierOf(repository, tag string) Policy {
	if len(r.tiers) > 0 {
		path := "/v2/" + repository + "/manifests/" + tag
		for _, t := range r.tiers {
			if t.cacheType == typeSecondary && namesDigest(tag) {
				continue
			}
			if t.pattern.MatchString(path) {
				return Policy{FreshFor: t.freshFor, Tier: t.cacheType}
			}
		}
	}
	return Policy{FreshFor: r.defaultFor, Tier: r.defaultType}
}

// namesDigest reports whether a tag is made of a digest: "sha256-<hex>", what refers to a manifest where a registry has no
// list of that, or "sha256-<hex>.sig", cosign's. They look like versions to the secondary tier, and are written again
// with each signature.
func namesDigest(tag string) bool {
	algorithm, rest, ok := strings.Cut(tag, "-")
	if !ok || algorithm != "sha256" && algorithm != "sha512" {
		return false
	}
	hex, _, _ := strings.Cut(rest, ".")
	return len(hex) >= 64 && strings.Trim(hex, "0123456789abcdef") == ""
}
