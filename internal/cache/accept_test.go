package cache

import (
	"slices"
	"strings"
	"testing"
)

const (
	index = "application/vnd.oci.image.index.v1+json"
	image = "application/vnd.oci.image.manifest.v1+json"
)

func TestNormalAccept(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		accept []string
		want   string
	}{
		{"no header takes everything", nil, "*/*"},
		{"so does an empty one", []string{""}, "*/*"},
		{"curl", []string{"*/*"}, "*/*"},
		{"in any order, case and number of lines", []string{strings.ToUpper(image) + " , ", index}, index + "," + image},
		{"twice", []string{image + "," + image}, image},
		{"containerd, which adds everything", []string{index + ", " + image + ", */*"}, "*/*," + index + "," + image},
		{"less gladly is not the same", []string{index + ";q=0.5, " + image}, index + ";q," + image},
		{"parameters that are no weight", []string{image + "; charset=utf-8"}, image},
		{"not at all", []string{index + ";q=0, " + image + ";q=0.000"}, ""},
		{"a weight of one", []string{index + ";q=1.000"}, index},
		{"what no manifest is", []string{"text/html, application/x-1;q=0.123, " + image}, image},
		{"nothing that a manifest is", []string{"text/html"}, ""},
	} {
		if got := normalAccept(tc.accept); got != tc.want {
			t.Errorf("%s: normalAccept(%q) = %q, want %q", tc.name, tc.accept, got, tc.want)
		}
	}
}

func TestAcceptable(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		mediaType string
		accept    []string
		want      bool
	}{
		{index, nil, true}, {index, []string{""}, true}, {index, []string{" , "}, true},
		{index, []string{index}, true}, {index, []string{image}, false}, {index, []string{image + ", " + index}, true}, {index, []string{image, index}, true},
		{index, []string{"*/*"}, true}, {index, []string{"application/*"}, true}, {index, []string{"text/*"}, false}, {index, []string{"*/*;q=0"}, false},
		{index, []string{index + ";q=0"}, false}, {index, []string{index + ";q=0.1"}, true}, {index, []string{strings.ToUpper(index)}, true},
		{index + "; charset=utf-8", []string{index}, true}, {"", []string{image}, false},
	} {
		if got := acceptable(tc.mediaType, tc.accept); got != tc.want {
			t.Errorf("acceptable(%q, %q) = %t, want %t", tc.mediaType, tc.accept, got, tc.want)
		}
	}
}

// However a client spells it, the number of records of one tag is bounded, and its own form is its own normal form.
func FuzzNormalAccept(f *testing.F) {
	f.Add(index + ";q=0.5, */*")
	f.Add("application/json;q=0,,;;q=\x00,APPLICATION/*;Q=1")
	f.Fuzz(func(t *testing.T, accept string) {
		normal := normalAccept([]string{accept})
		if normal == "" {
			return
		}
		seen := map[string]bool{}
		for item := range strings.SplitSeq(normal, ",") {
			name, marked := strings.CutSuffix(item, ";q")
			if !slices.Contains(manifestTypes, name) || seen[item] {
				t.Fatalf("normalAccept(%q) = %q has %q (marked %t)", accept, normal, item, marked)
			}
			seen[item] = true
		}
		if again := normalAccept([]string{strings.ReplaceAll(normal, ";q", ";q=0.5")}); again != normal {
			t.Fatalf("normalAccept(%q) = %q, and of that %q", accept, normal, again)
		}
	})
}
