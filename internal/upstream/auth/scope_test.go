package auth

import "testing"

func TestScopeToAskFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name             string
		want, challenged Scope
		ask              Scope
	}{
		{"what we want", PullScope("a/b"), "", "repository:a/b:pull"},
		{"what both want", PullScope("a/b"), "repository:a/b:pull", "repository:a/b:pull"},
		{"a placeholder is not for us", PullScope("a/b"), "repository:user/image:pull", "repository:a/b:pull"},
		{"ACR's reading of metadata", PullScope("a/b"), "repository:a/b:metadata_read", "repository:a/b:metadata_read,pull"},
		{"no writing", PullScope("a/b"), "repository:a/b:pull,push,delete", "repository:a/b:pull"},
		{"nobody else's repository", PullScope("a/b"), "repository:secret/b:pull", "repository:a/b:pull"},
		{"several repositories", "repository:b:pull repository:a:pull", "", "repository:a:pull repository:b:pull"},
		{"the ping", "", "", ""},
		{"the catalog", "", "registry:catalog:*", "registry:catalog:*"},
		{"a challenge where nothing was wanted", "", "repository:a/b:push,pull", "repository:a/b:pull"},
		{"writing where nothing was wanted", "", "repository:a/b:push", ""},
		{"rubbish", PullScope("a"), "::: x : repository", "repository:a:pull"},
	} {
		if got := tt.want.widen(string(tt.challenged)); got != tt.ask {
			t.Errorf("%s: %q.widen(%q) = %q, want %q", tt.name, tt.want, tt.challenged, got, tt.ask)
		}
	}
}
