// Package freshness says how long a tag is served without asking upstream. It is pure: the same configuration and the
// same tag always give the same answer, nothing is read, written or timed. Its invariant: an answer costs time linear
// in the length of repository and tag, whatever the operator's patterns and a stranger's tag are.
package freshness

import (
	"errors"
	"fmt"
	"regexp"
	"time"
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
}

// The names of the tiers, as the originals report them in a response header.
const (
	typePrimary   = "manifest-primary"
	typeSecondary = "manifest-secondary"
	typeDefault   = "manifest-default"
	typeDisabled  = "manifest-default-disabled"
)

// Rules tell how long a tag is fresh. They are safe for concurrent use.
type Rules struct {
	tiers       []tier // the first that matches wins
	defaultFor  time.Duration
	defaultType string
}

type tier struct {
	pattern   *regexp.Regexp
	freshFor  time.Duration
	cacheType string
}

// NewRules compiles the fragments of cfg. Its error names every tier whose fragment [CheckFragment] refuses, and every
// time that is negative.
func NewRules(cfg Config) (*Rules, error) {
	if !cfg.Enabled {
		return &Rules{defaultType: typeDisabled}, nil
	}
	r := &Rules{defaultFor: cfg.DefaultFor, defaultType: typeDefault}
	err := errors.Join(
		r.add("primary", cfg.PrimaryRegex, tier{freshFor: cfg.PrimaryFor, cacheType: typePrimary}),
		r.add("secondary", cfg.SecondaryRegex, tier{freshFor: cfg.SecondaryFor, cacheType: typeSecondary}),
	)
	if cfg.DefaultFor < 0 {
		err = errors.Join(err, fmt.Errorf("default tier: fresh for %v: want zero or more", cfg.DefaultFor))
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// add puts a tier behind those that are there, unless it has no fragment.
func (r *Rules) add(name, fragment string, t tier) error {
	if t.freshFor < 0 {
		return fmt.Errorf("%s tier: fresh for %v: want zero or more", name, t.freshFor)
	}
	if fragment == "" {
		return nil
	}
	pattern, err := compile(fragment)
	if err != nil {
		return fmt.Errorf("%s tier: %w", name, err)
	}
	t.pattern = pattern
	r.tiers = append(r.tiers, t)
	return nil
}

// For returns how long a tag of repository is fresh, and the name of its tier: "manifest-primary",
// "manifest-secondary", "manifest-default", or "manifest-default-disabled" while the manifest cache is off.
func (r *Rules) For(repository, tag string) (freshFor time.Duration, cacheType string) {
	if len(r.tiers) == 0 {
		return r.defaultFor, r.defaultType
	}
	path := "/v2/" + repository + "/manifests/" + tag
	for _, t := range r.tiers {
		if t.pattern.MatchString(path) {
			return t.freshFor, t.cacheType
		}
	}
	return r.defaultFor, r.defaultType
}
