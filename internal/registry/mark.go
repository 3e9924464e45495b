package registry

import (
	"net/http"
	"strings"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/oci"
)

// upstreamStatus is what nginx would have called the outcome, for scripts that watch the originals' headers.
var upstreamStatus = map[cache.Outcome]string{
	cache.Hit: "HIT", cache.Miss: "MISS", cache.StaleHit: "STALE",
	cache.Revalidated: "REVALIDATED", cache.Coalesced: "MISS", cache.Bypass: "BYPASS",
}

// xCache is our own word for the outcome.
var xCache = map[cache.Outcome]string{
	cache.Hit: "HIT", cache.Miss: "MISS", cache.StaleHit: "STALE",
	cache.Revalidated: "REVALIDATED", cache.Coalesced: "COALESCED", cache.Bypass: "BYPASS",
}

// mark writes how the request was answered into the response's headers, under the originals' names and ours, and into
// the access record.
func mark(w http.ResponseWriter, r *http.Request, p oci.Path, content *cache.Content) {
	kind := cacheType(p, content.Tier)
	for _, product := range []string{"X-Container-Registry-Proxy-Cache-", "X-Docker-Registry-Proxy-Cache-"} {
		w.Header().Set(product+"Upstream-Status", upstreamStatus[content.Outcome])
		w.Header().Set(product+"Type", kind)
	}
	w.Header().Set("X-Cache", xCache[content.Outcome])
	if content.Outcome == cache.StaleHit {
		w.Header().Set("Warning", `110 container-registry-proxy "Response is stale"`)
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
