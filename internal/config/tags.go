package config

import (
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"

	"container-registry-proxy/internal/freshness"
)

// tagRule is a rule for tags, and where it stands.
type tagRule struct {
	freshness.Rule
	label string
}

// readTags takes a sequence of rules.
func (f *yamlFile) readTags(n *yaml.Node) {
	const want = "want a list of rules, such as [{registry: docker.io, tag: latest, fresh_for: 10m}]"
	if n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		f.refuse(f.label(n, "tags"), errors.New(want))
		return
	}
	for i, entry := range n.Content {
		label := f.label(entry, fmt.Sprintf("tags[%d]", i))
		if entry.Kind != yaml.MappingNode {
			f.refuse(label, errors.New(want))
			continue
		}
		f.file.tags = append(f.file.tags, tagRule{f.tagRule(entry, label), label})
	}
}

// tagRule takes one rule. A field that it refuses is left out.
func (f *yamlFile) tagRule(entry *yaml.Node, label string) (r freshness.Rule) {
	for key, n := range f.fields(entry, label) {
		set, known := map[string]func(string) error{
			"registry":   func(v string) error { r.Registry = v; return nil },
			"repository": func(v string) error { r.Repository = v; return nil },
			"tag":        func(v string) error { r.Tag = v; return nil },
			"fresh_for": func(v string) error {
				d, err := ParseTime(v)
				r.FreshFor = &d
				return err
			},
			"stale_while_revalidate": func(v string) (err error) { r.StaleWhileRevalidate, err = ParseTime(v); return err },
			"on_missing":             func(v string) (err error) { r.KeepMissing, err = oneOf(v, "pass", "keep"); return err },
			"stale":                  func(v string) (err error) { r.NeverStale, err = oneOf(v, "allowed", "never"); return err },
			"never_cache":            func(v string) (err error) { r.NeverCache, err = parseBool(v); return err },
		}[key.Value]
		switch n = target(n); {
		case !known:
			f.refuse(f.label(key, show(key.Value)), errors.New("unknown field: want registry, repository, tag, fresh_for, stale_while_revalidate, on_missing, stale or never_cache"))
		case n.Kind != yaml.ScalarNode || n.Tag == "!!null":
			f.refuse(f.label(key, key.Value), errors.New("want one value"))
		default:
			f.refuse(f.label(key, key.Value), set(n.Value))
		}
	}
	return r
}

// oneOf reports whether v is the second of two words.
func oneOf(v, no, yes string) (bool, error) {
	if v != no && v != yes {
		return false, fmt.Errorf("%s is neither: want %s or %s", show(v), no, yes)
	}
	return v == yes, nil
}

// tags checks the rules for tags, and those that say two things at once.
func (l *loader) tags() {
	l.cfg.ManifestCache.Pins, l.cfg.Warm = l.file.pins, l.file.warm
	for _, t := range l.file.tags {
		never := t.NeverCache && (t.FreshFor != nil || t.KeepMissing || t.StaleWhileRevalidate > 0)
		switch {
		case never:
			l.refuse(t.label, errors.New("never_cache leaves nothing for the other fields to say: want never_cache alone, beside the patterns"))
		case t.NeverStale && t.StaleWhileRevalidate > 0:
			l.refuse(t.label, errors.New("stale: never and stale_while_revalidate exclude each other: want one of them"))
		}
		l.refuse(t.label, freshness.CheckRule(t.Rule, l.cfg.ManifestCache.AllowPCRE))
		l.cfg.ManifestCache.Rules = append(l.cfg.ManifestCache.Rules, t.Rule)
	}
}
