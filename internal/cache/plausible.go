package cache

import (
	"encoding/json"
	"slices"
	"strings"
)

// likely reports whether what a registry described or delivered is a manifest of a kind we know.
func (m *manifest) likely() bool {
	return isManifest(m.MediaType) && (m.bytes == nil || m.plausible)
}

// isManifest reports whether a media type is one of a manifest or an index.
func isManifest(contentType string) bool {
	mediaType := essence(contentType)
	return !strings.HasSuffix(mediaType, "*") && slices.Contains(manifestTypes, mediaType)
}

// essence is a media type without its parameters.
func essence(contentType string) string {
	mediaType, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(mediaType))
}

// document is what tells manifests apart.
type document struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Manifests     json.RawMessage `json:"manifests"`
	Layers        json.RawMessage `json:"layers"`
	Config        json.RawMessage `json:"config"`
	FSLayers      json.RawMessage `json:"fsLayers"`
}

// plausible reports whether b is a manifest of the type its registry gave, and of no other: a JSON object that says so
// itself or could be nothing else, and is not an index and an image at once (CVE-2021-41190). What is kept under a type
// is served under that type ever after.
func plausible(b []byte, contentType string) bool {
	var doc document
	if json.Unmarshal(b, &doc) != nil {
		return false
	}
	index, image, v1 := doc.Manifests != nil, doc.Layers != nil || doc.Config != nil, doc.FSLayers != nil
	switch mediaType := essence(contentType); mediaType {
	case "application/vnd.oci.image.index.v1+json":
		return doc.says(mediaType, true) && index && !image && !v1
	case "application/vnd.oci.image.manifest.v1+json":
		return doc.says(mediaType, true) && image && !index && !v1
	case "application/vnd.docker.distribution.manifest.list.v2+json":
		return doc.says(mediaType, false) && index && !image && !v1
	case "application/vnd.docker.distribution.manifest.v2+json":
		return doc.says(mediaType, false) && image && !index && !v1
	case "application/vnd.docker.distribution.manifest.v1+prettyjws", "application/vnd.docker.distribution.manifest.v1+json":
		return doc.SchemaVersion == 1 && v1 && !index && !image
	default: // artifacts, and what is yet to come
		return isManifest(mediaType) && doc.MediaType == mediaType && !(index && image)
	}
}

// says reports whether a document of schema version 2 names that media type as its own. OCI lets it be left out.
func (d document) says(mediaType string, optional bool) bool {
	return d.SchemaVersion == 2 && (d.MediaType == mediaType || optional && d.MediaType == "")
}
