package cache

import (
	"mime"
	"slices"
	"strings"
)

// normalAccept brings Accept headers into one form, so that clients that take the same get the same record: the media
// types in lower case, sorted, each once, without parameters. What takes everything is the empty string.
func normalAccept(accept []string) string {
	types := acceptTypes(accept)
	if slices.Contains(types, "*/*") {
		return ""
	}
	return strings.Join(types, ",")
}

func acceptTypes(accept []string) []string {
	var types []string
	for _, line := range accept {
		for item := range strings.SplitSeq(line, ",") {
			name, parameters, _ := strings.Cut(item, ";")
			if refused(parameters) {
				continue
			}
			if name = strings.ToLower(strings.TrimSpace(name)); name != "" {
				types = append(types, name)
			}
		}
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// refused reports whether the parameters say q=0: not acceptable.
func refused(parameters string) bool {
	for parameter := range strings.SplitSeq(parameters, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		if strings.EqualFold(strings.TrimSpace(key), "q") && strings.Trim(strings.TrimSpace(value), "0.") == "" {
			return true
		}
	}
	return false
}

// acceptable reports whether a client with these Accept headers takes the media type.
func acceptable(contentType string, accept []string) bool {
	types := acceptTypes(accept)
	if len(types) == 0 {
		return true
	}
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	family, _, _ := strings.Cut(mediaType, "/")
	return slices.Contains(types, mediaType) || slices.Contains(types, "*/*") || slices.Contains(types, family+"/*")
}
