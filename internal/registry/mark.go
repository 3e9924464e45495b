package registry

import (
	"net/http"
	"strings"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/oci"
)

// The values of a response's headers that are the same in many: shared by all of them, and so never changed in place.
var (
	apiVersion  = []string{"registry/2.0"}
	octetStream = []string{"application/octet-stream"}
	inBytes     = []string{"bytes"}

	// upstreamStatus is what nginx would have called the outcome, for scripts that watch the originals' headers.
	upstreamStatus = map[cache.Outcome][]string{
		cache.Hit: {"HIT"}, cache.Miss: {"MISS"}, cache.StaleHit: {"STALE"},
		cache.Revalidated: {"REVALIDATED"}, cache.Coalesced: {"MISS"}, cache.Bypass: {"BYPASS"},
	}

	// xCache is our own word for the outcome.
	xCache = map[cache.Outcome][]string{
		cache.Hit: {"HIT"}, cache.Miss: {"MISS"}, cache.StaleHit: {"STALE"},
		cache.Revalidated: {"REVALIDATED"}, cache.Coalesced: {"COALESCED"}, cache.Bypass: {"BYPASS"},
	}
)

// mark writes how the request was answered into the response's headers, under the originals' names and ours, and into
// the access record.
func mark(w http.ResponseWriter, r *http.Request, p oci.Path, content *cache.Content) {
	kind := cacheType(p, content.Tier)
	header, kinds, status := w.Header(), []string{kind}, upstreamStatus[content.Outcome]
	header["X-Container-Registry-Proxy-Cache-Upstream-Status"] = status
	header["X-Docker-Registry-Proxy-Cache-Upstream-Status"] = status
	header["X-Container-Registry-Proxy-Cache-Type"] = kinds
	header["X-Docker-Registry-Proxy-Cache-Type"] = kinds
	header["X-Cache"] = xCache[content.Outcome]
	if content.Outcome == cache.StaleHit {
		header.Set("Warning", `110 container-registry-proxy "Response is stale"`)
	}
	rec := accesslog.From(r.Context())
	rec.Outcome, rec.CacheType = string(content.Outcome), kind
}

// cacheType is the originals' name for the kind of request.
func cacheType(p oci.Path, tier string) string {
	switch {
	case p.Kind == oci.KindBlob:
		return "blob-by-digest"
	case p.Digest != "":
		return "manifest-by-digest"
	case tier != "":
		return tier
	}
	return "unknown"
}

// markUnverified says so where a part is given out before the blob is verified and without its end: the one case in
// which a complete response carries what upstream sent and nobody has checked.
func markUnverified(w http.ResponseWriter, content *cache.Content, size int64, spans ...span) {
	if content.Body.Verified() {
		return
	}
	for _, s := range spans {
		if s.end < size {
			w.Header().Set("X-Cache", strings.TrimSuffix(w.Header().Get("X-Cache"), "-UNVERIFIED")+"-UNVERIFIED")
			return
		}
	}
}
