package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the pages have people type is there: each command line of theirs names a command, and flags that it has.
func TestCommandLinesOfThePages(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	// The image's name is that of the program, so what follows it after a colon is none of ours, but for its tag.
	line := regexp.MustCompile("(?:^|[\\s`/=])container-registry-proxy(?::latest)? ([a-z][^|>#`\n]*)")
	code := regexp.MustCompile("(?ms)^```.*?^```|`[^`]+`")
	seen := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range code.FindAllString(string(text), -1) {
			for _, m := range line.FindAllStringSubmatch(block, -1) {
				seen++
				root := command(process{})
				c, args, err := root.Find(strings.Fields(m[1]))
				if err == nil && c == root {
					err = oneOf(root, args)
				}
				if err == nil {
					err = c.ParseFlags(args)
				}
				if err == nil && c.Args != nil {
					err = c.Args(c, c.Flags().Args())
				}
				if err != nil {
					t.Errorf("%s: %q: %v", page, m[0], err)
				}
			}
		}
	}
	if seen < 8 {
		t.Errorf("only %d command lines found: is the pattern right?", seen)
	}
}
