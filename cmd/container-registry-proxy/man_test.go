package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The man page is written by hand: it has every command with its flags, and none that is not there.
func TestManPageHasEveryCommand(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../deploy/release/container-registry-proxy.1")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), ".SH COMMANDS\n")
	text, _, _ = strings.Cut(text, ".SH ")
	text = strings.ReplaceAll(text, `\-`, "-")
	var want, has []string
	for _, c := range command(process{}).Commands() {
		want = append(want, c.Name())
		for _, m := range regexp.MustCompile(`(?m)^ *(?:-\w, )?(--\S+)`).FindAllStringSubmatch(c.LocalFlags().FlagUsages(), -1) {
			want = append(want, m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\.BI? (\S+)`).FindAllStringSubmatch(text, -1) {
		has = append(has, m[1])
	}
	for _, name := range want {
		if !slices.Contains(has, name) {
			t.Errorf("the page does not have %s", name)
		}
	}
	for _, name := range has {
		if !slices.Contains(want, name) && name != "--help" {
			t.Errorf("the page has %s, and the program does not", name)
		}
	}
}
