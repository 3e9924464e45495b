package archtest

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	pageLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	pageHeading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	// What a page has in code and is in the repository: `docs/configuration.md`, "-f deploy/compose/compose.yaml".
	pagePath   = regexp.MustCompile("(?:^|[\\s`'\"])(?:\\./)?((?:bench|cmd|deploy|docs|internal|scripts|test)/[\\w./-]+)")
	pageTarget = regexp.MustCompile("(?m)(?:^|`|&& )make ([a-z][a-z-]*)")
	makeTarget = regexp.MustCompile(`(?m)^([a-z][a-z-]*):`)
	pageMetric = regexp.MustCompile(`container_registry_proxy_([a-z_]+)`)
	fence      = regexp.MustCompile("(?ms)^```.*?^```|`[^`\n]+`")
)

// Pages reports what a page names and is not there: a file, a heading of another page, a target of make, a metric.
func (t *Tree) Pages() ([]string, error) {
	var found []string
	pages := map[string]string{}
	var sources strings.Builder
	err := walk(t.Root, func(name string) error {
		source := strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
		if !source && !strings.HasSuffix(name, ".md") {
			return nil
		}
		data, err := os.ReadFile(filepath.Join(t.Root, filepath.FromSlash(name)))
		if source {
			sources.Write(data)
		} else {
			pages[name] = string(data)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	makefile, _ := os.ReadFile(filepath.Join(t.Root, "Makefile")) // without one there are no targets
	targets := map[string]bool{}
	for _, m := range makeTarget.FindAllStringSubmatch(string(makefile), -1) {
		targets[m[1]] = true
	}
	for name, text := range pages {
		for _, m := range pageLink.FindAllStringSubmatch(text, -1) {
			if problem := t.link(pages, name, m[1]); problem != "" {
				found = append(found, fmt.Sprintf("%s: the link %s %s", name, m[1], problem))
			}
		}
		for _, code := range fence.FindAllString(text, -1) {
			for _, m := range pagePath.FindAllStringSubmatch(code, -1) {
				if p := strings.TrimRight(m[1], "/."); !strings.Contains(p, "...") && !t.has(p) {
					found = append(found, fmt.Sprintf("%s: names %s, which is not there", name, p))
				}
			}
			for _, m := range pageMetric.FindAllStringSubmatch(code, -1) {
				if !strings.Contains(sources.String(), `"`+m[1]+`"`) {
					found = append(found, fmt.Sprintf("%s: names the metric %s, which no package has", name, m[0]))
				}
			}
			for _, m := range pageTarget.FindAllStringSubmatch(code, -1) {
				if !targets[m[1]] {
					found = append(found, fmt.Sprintf("%s: names \"make %s\", which the Makefile does not have", name, m[1]))
				}
			}
		}
	}
	return found, nil
}

func (t *Tree) has(name string) bool {
	_, err := os.Stat(filepath.Join(t.Root, filepath.FromSlash(name)))
	return err == nil
}

// link says what is wrong with a link of a page, if it leads to another of the repository.
func (t *Tree) link(pages map[string]string, from, to string) string {
	if strings.Contains(to, "://") {
		return ""
	}
	file, heading, _ := strings.Cut(to, "#")
	name := from
	if file != "" {
		name = path.Join(path.Dir(from), file)
	}
	if !t.has(name) {
		return "leads nowhere"
	}
	if heading == "" {
		return ""
	}
	for _, m := range pageHeading.FindAllStringSubmatch(pages[name], -1) {
		if anchor(m[1]) == heading {
			return ""
		}
	}
	return "names a heading that " + name + " does not have"
}

// anchor is a heading as links have it.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', '0' <= r && r <= '9', 'a' <= r && r <= 'z', r > 127:
			return r
		}
		return -1
	}, strings.ToLower(heading))
}
