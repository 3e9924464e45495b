package auth

import (
	"maps"
	"slices"
	"strings"
)

// Scope names what a token is for, in the words of the token specification: "repository:library/alpine:pull". Several
// are separated by spaces. The empty scope asks for no particular right, as the ping does.
type Scope string

// PullScope is the right to pull a repository.
func PullScope(repository string) Scope { return Scope("repository:" + repository + ":pull") }

// repository is the one that the scope is for, or nothing.
func (s Scope) repository() string {
	for part := range strings.FieldsSeq(string(s)) {
		if rest, ok := strings.CutPrefix(part, "repository:"); ok {
			if i := strings.LastIndexByte(rest, ':'); i >= 0 {
				return rest[:i]
			}
		}
	}
	return ""
}

// readActions are those that a challenge may add to what we ask for: none of them changes anything.
var readActions = map[string]bool{"pull": true, "metadata_read": true}

// widen returns the scope to ask for when a registry names challenged for a request that wanted want: want, and the
// actions that only read which the registry wants for the same resources (ACR's metadata_read, say). Where nothing was
// wanted, the registry's own word is taken, for reading only; it may list the catalog.
func (want Scope) widen(challenged string) Scope {
	resources := want.resources()
	for resource, actions := range Scope(challenged).resources() {
		if _, wanted := resources[resource]; !wanted && want != "" {
			continue
		}
		for action := range actions {
			if readActions[action] || resource == "registry:catalog" {
				if resources[resource] == nil {
					resources[resource] = map[string]bool{}
				}
				resources[resource][action] = true
			}
		}
	}
	var parts []string
	for resource, actions := range resources {
		parts = append(parts, resource+":"+strings.Join(slices.Sorted(maps.Keys(actions)), ","))
	}
	slices.Sort(parts)
	return Scope(strings.Join(parts, " "))
}

// resources maps "type:name" to its actions.
func (want Scope) resources() map[string]map[string]bool {
	resources := map[string]map[string]bool{}
	for part := range strings.FieldsSeq(string(want)) {
		i := strings.LastIndexByte(part, ':')
		if i < 0 || !strings.Contains(part[:i], ":") {
			continue
		}
		if resources[part[:i]] == nil {
			resources[part[:i]] = map[string]bool{}
		}
		for action := range strings.SplitSeq(part[i+1:], ",") {
			resources[part[:i]][action] = true
		}
	}
	return resources
}
