package oci

import (
	"fmt"
	"strings"
)

// Platform is what an image runs on.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Platforms are the platforms that are wanted.
type Platforms []Platform

// allPlatforms is every platform there is.
var allPlatforms = Platform{OS: "*"}

// ParsePlatforms reads platforms such as linux/amd64 and linux/arm/v7; "all" means every one there is.
func ParsePlatforms(list []string) (Platforms, error) {
	var out Platforms
	for _, text := range list {
		if text == "all" {
			out = append(out, allPlatforms)
			continue
		}
		parts := strings.Split(strings.ToLower(text), "/")
		if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
			return nil, fmt.Errorf("platform %q: want one such as linux/amd64 or linux/arm/v7, or all", text)
		}
		p := Platform{OS: parts[0], Architecture: parts[1]}
		if len(parts) == 3 {
			p.Variant = parts[2]
		}
		out = append(out, p)
	}
	return out, nil
}

func (p Platforms) String() string {
	var words []string
	for _, one := range p {
		words = append(words, one.String())
	}
	return strings.Join(words, " or ")
}

// Want reports whether an entry of an index is wanted. One that says no platform is.
func (p Platforms) Want(of *Platform) bool {
	for _, one := range p {
		if of == nil || one == allPlatforms || one.OS == of.OS && one.Architecture == of.Architecture && (one.Variant == "" || of.Variant == "" || one.Variant == of.Variant) {
			return true
		}
	}
	return false
}
