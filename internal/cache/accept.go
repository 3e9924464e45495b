package cache

import (
	"slices"
	"strings"

	"container-registry-proxy/internal/memo"
)

// manifestTypes are the media types that a registry may choose between for one tag.
var manifestTypes = []string{
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.oci.artifact.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.v1+prettyjws",
	"application/vnd.docker.distribution.manifest.v1+json",
	"application/json",
	"application/*",
	"*/*",
}

// normalAccept brings Accept headers into one form, so that clients that take the same get the same record: those of
// manifestTypes that are taken, sorted, each once; one that is taken, but less gladly than others, is marked. What is no
// type of a manifest decides nothing, and would let a client have us keep any number of records of one tag. No header
// means that everything is taken.
func normalAccept(accept []string) string {
	if len(accept) == 1 && len(accept[0]) <= maxAccept {
		return normalForms.Of(accept[0])
	}
	return normalForm(accept)
}

// normalForms remembers the forms of what clients send with every request. A cluster has a handful of them.
var normalForms = memo.New(64, strings.Clone, func(accept string) string { return normalForm([]string{accept}) })

// maxAccept bounds what is remembered of one client; Docker's is the longest that clients send, with about 500 bytes.
const maxAccept = 1 << 10

func normalForm(accept []string) string {
	var types []string
	for _, line := range accept {
		for item := range strings.SplitSeq(line, ",") {
			name, parameters, _ := strings.Cut(item, ";")
			name = strings.ToLower(strings.TrimSpace(name))
			switch q := quality(parameters); {
			case q == 0 || !slices.Contains(manifestTypes, name):
			case q < 1:
				types = append(types, name+";q")
			default:
				types = append(types, name)
			}
		}
	}
	if len(types) == 0 && len(strings.Join(accept, "")) == 0 {
		return "*/*"
	}
	slices.Sort(types)
	return strings.Join(slices.Compact(types), ",")
}

// quality is the weight that the parameters of an item give it (RFC 9110, section 12.4.2), as far as it is told apart
// here: 0, 1, or something in between.
func quality(parameters string) float64 {
	for parameter := range strings.SplitSeq(parameters, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		value = strings.TrimSpace(value)
		switch {
		case !strings.EqualFold(strings.TrimSpace(key), "q"):
		case strings.Trim(value, "0.") == "":
			return 0
		case strings.HasPrefix(value, "0"):
			return 0.5
		}
	}
	return 1
}

// acceptable reports whether a client with these Accept headers takes the media type.
func acceptable(contentType string, accept []string) bool {
	mediaType := essence(contentType)
	family, _, _ := strings.Cut(mediaType, "/")
	listed := false
	for _, line := range accept {
		for item := range strings.SplitSeq(line, ",") {
			name, parameters, _ := strings.Cut(item, ";")
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			listed = true
			whole, of, _ := strings.Cut(name, "/")
			if (strings.EqualFold(name, mediaType) || name == "*/*" || of == "*" && strings.EqualFold(whole, family)) && quality(parameters) > 0 {
				return true
			}
		}
	}
	return !listed
}
