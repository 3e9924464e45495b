package proxy

import (
	"net/http"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/via"
)

// loopless refuses what this proxy has asked itself, by whatever way it came back; what has come through others keeps
// their names.
func (p *Proxy) loopless(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.cfg.Via.In(r.Header) {
			writeError(w, r, http.StatusLoopDetected, oci.CodeDenied,
				"this request has come through this proxy before: the name or the address of a registry, a fallback or a parent proxy leads back here")
			return
		}
		if through := r.Header["Via"]; len(through) > 0 {
			r = r.WithContext(via.NewContext(r.Context(), through))
		}
		next.ServeHTTP(w, r)
	})
}
