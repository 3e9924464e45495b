package freshness

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"container-registry-proxy/internal/oci"
)

// Rule is an operator's own rule for some tags. A pattern is a glob or a /regular expression/; empty matches all.
type Rule struct {
	Registry, Repository, Tag string

	// FreshFor is how long a tag is fresh; nil leaves that to the tiers.
	FreshFor *time.Duration
	// StaleWhileRevalidate is how long after that it is served at once while it is revalidated behind the client's back.
	StaleWhileRevalidate time.Duration
	// KeepMissing has a tag served that its registry says is not there any more.
	KeepMissing bool
	// NeverStale refuses a tag that cannot be revalidated.
	NeverStale bool
	// NeverCache has every request for a tag answered by its registry.
	NeverCache bool
}

// rule is a compiled Rule.
type rule struct {
	registry, repository, tag matcher
	Rule
}

// Policy says what is done with one tag.
type Policy struct {
	FreshFor             time.Duration
	StaleWhileRevalidate time.Duration
	KeepMissing          bool
	NeverStale           bool
	NeverCache           bool
	// Tier is what decided, as the originals report it in a response header: "manifest-primary", "manifest-secondary",
	// "manifest-default", "manifest-default-disabled" while the manifest cache is off, or "manifest-rule".
	Tier string
}

// typeRule is the tier of a tag whose time a rule says.
const typeRule = "manifest-rule"

// CheckRule says what is wrong with a rule, or nothing.
func CheckRule(r Rule, allowPCRE bool) error {
	_, err := compileRule(r, allowPCRE)
	return err
}

// compileRule compiles the patterns of a rule. Names without wildcards may be spelt as people do: registry-1.docker.io for
// docker.io, and nginx for library/nginx there.
func compileRule(r Rule, allowPCRE bool) (rule, error) {
	out := rule{Rule: r}
	plain := !strings.HasPrefix(r.Registry, "/") && !strings.ContainsAny(r.Registry, "*?")
	if plain && r.Registry != "" {
		reg, err := oci.ParseRegistry(r.Registry)
		if err != nil {
			return rule{}, fmt.Errorf("registry %q: want a host, such as quay.io, with wildcards or not", r.Registry)
		}
		r.Registry = string(reg)
		if reg == oci.DockerHub && r.Repository != "" && !strings.ContainsAny(r.Repository, "/*?") {
			r.Repository = "library/" + r.Repository
		}
	}
	var errs [3]error
	out.registry, errs[0] = newMatcher(r.Registry, allowPCRE)
	out.repository, errs[1] = newMatcher(r.Repository, allowPCRE)
	out.tag, errs[2] = newMatcher(r.Tag, allowPCRE)
	for _, d := range []time.Duration{r.StaleWhileRevalidate, value(r.FreshFor)} {
		if d < 0 {
			return rule{}, fmt.Errorf("a time of %v: want zero or more", d)
		}
	}
	return out, errors.Join(errs[:]...)
}

func value(d *time.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return *d
}

// of reports whether the rule is for tags of a repository.
func (r rule) of(registry oci.Registry, repository string) bool {
	return r.registry.MatchString(string(registry)) && r.repository.MatchString(repository)
}

// apply has the rule change a policy.
func (r rule) apply(p Policy) Policy {
	if r.FreshFor != nil {
		p.FreshFor, p.Tier = *r.FreshFor, typeRule
	}
	p.StaleWhileRevalidate, p.KeepMissing, p.NeverStale, p.NeverCache = r.StaleWhileRevalidate, r.KeepMissing, r.NeverStale, r.NeverCache
	return p
}
