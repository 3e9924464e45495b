package registry

import (
	"errors"
	"net/http"

	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/oci"
)

// referrers answers a GET of the list of what refers to a manifest (end-12a, end-12b), with the registry's pages and
// filters. A client's own passes through.
func (h *Handler) referrers(w http.ResponseWriter, r *http.Request, reg oci.Registry, p oci.Path) error {
	pull := cache.Pull{Caller: caller(r), Registry: reg, Path: p, Accept: r.Header.Values("Accept"), NoCache: noCache(r)}
	list, err := h.cfg.Cache.Referrers(r.Context(), pull, r.URL.RawQuery)
	if errors.Is(err, cache.ErrOwn) {
		return h.list(w, r, reg, p)
	}
	if err != nil {
		return err
	}
	mark(w, r, p, &cache.Content{Outcome: list.Outcome})
	header := w.Header()
	for name, values := range list.Header {
		header[name] = values
	}
	setLength(header, int64(len(list.Body)))
	w.WriteHeader(http.StatusOK)
	if _, err := w.Write(list.Body); err != nil {
		return &errCut{clientGone{err}}
	}
	return nil
}
