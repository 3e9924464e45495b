package registrytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"container-registry-proxy/internal/oci"
)

// serveTags lists tags in pages (end-8a, end-8b).
func (r *Registry) serveTags(w http.ResponseWriter, req *http.Request, p oci.Path) {
	faults, _ := r.look()
	tags := slices.DeleteFunc(r.content.tags(p.Repository), func(tag string) bool { return tag <= req.URL.Query().Get("last") })
	size := faults.PageSize
	if n, err := strconv.Atoi(req.URL.Query().Get("n")); err == nil && (size == 0 || n < size) {
		size = n
	}
	if size > 0 && size < len(tags) {
		tags = tags[:size]
		next := fmt.Sprintf("/v2/%s/tags/list?n=%d&last=%s", p.Repository, size, tags[size-1])
		if faults.AbsoluteLinks {
			next = r.URL() + next
		}
		w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, next))
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(mustJSON(map[string]any{"name": p.Repository, "tags": append([]string{}, tags...)}))
}

// referrer is an entry of the referrers' list.
type referrer struct {
	oci.Descriptor
	ArtifactType string `json:"artifactType,omitempty"`
}

// serveReferrers lists what names a digest as its subject (end-12a, end-12b).
func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, p oci.Path) {
	if faults, _ := r.look(); faults.NoReferrers {
		fail(w, 404, oci.CodeUnsupported, "no such path")
		return
	}
	found := []referrer{}
	r.content.in(p.Repository, func(repo *repository) {
		for digest, doc := range repo.documents {
			var m struct {
				ArtifactType string         `json:"artifactType"`
				Subject      oci.Descriptor `json:"subject"`
			}
			if json.Unmarshal(doc.body, &m) == nil && m.Subject.Digest == p.Digest {
				found = append(found, referrer{oci.Descriptor{MediaType: doc.mediaType, Digest: digest, Size: int64(len(doc.body))}, m.ArtifactType})
			}
		}
	})
	slices.SortFunc(found, func(a, b referrer) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	if want := req.URL.Query().Get("artifactType"); want != "" {
		found = slices.DeleteFunc(found, func(f referrer) bool { return f.ArtifactType != want })
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("Content-Type", TypeIndex)
	_, _ = w.Write(mustJSON(map[string]any{"schemaVersion": 2, "mediaType": TypeIndex, "manifests": found}))
}
