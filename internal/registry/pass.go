package registry

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// relay sends a request on to the registry as the client made it, with the client's own Authorization and nothing else,
// and the registry's answer back as it is. What is below /v2/ never becomes another protocol: nothing of that would be
// ours to read.
func (h *Handler) relay(reg oci.Registry) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     h.cfg.Upstream.Transport(),
		FlushInterval: -1,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = reg.Scheme(), reg.Authority()
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery
			pr.Out.Host = reg.Authority()
			pr.Out.Header.Del("Upgrade")
			pr.Out.Header.Del("Connection")
			if pr.In.Header.Get("User-Agent") == "" {
				pr.Out.Header["User-Agent"] = nil // keep net/http from adding its own
			}
			if caller(pr.In).Authorization.Empty() {
				pr.Out.Header.Del("Authorization")
			}
		},
		ErrorLog: slog.NewLogLogger(h.cfg.Log.Handler(), slog.LevelDebug),
	}
}

// list passes through what is neither a pull nor a push: tags/list, referrers, the catalog. It is asked for as the
// caller's class says and never kept.
func (h *Handler) list(w http.ResponseWriter, r *http.Request, reg oci.Registry, p oci.Path) error {
	scope := auth.PullScope(p.Repository)
	if p.Kind == oci.KindCatalog {
		scope = "registry:catalog:*"
	}
	path := p.String()
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	var refusal error
	for _, as := range h.identities(caller(r), reg, p.Repository) {
		resp, err := h.cfg.Upstream.Do(r.Context(), upstream.Request{
			Method: r.Method, Registry: reg, Path: path, Scope: scope, As: as,
			Header: http.Header{"Accept": r.Header.Values("Accept")},
		})
		if err != nil {
			return err
		}
		if resp.StatusCode < 400 {
			defer resp.Body.Close()
			mark(w, r, p, &cache.Content{Outcome: cache.Bypass})
			return passResponse(w, resp)
		}
		g := access.Grant{Registry: reg, As: as}
		if as.IsCentral() {
			g.Class = access.Central
		}
		answer := g.Refusal(resp)
		if refusal == nil || as.IsCentral() { // what the operator's credentials get is the answer, if there are any
			refusal = answer
		}
		if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusNotFound {
			break
		}
	}
	return refusal
}

// identities are as whom a registry is asked on a caller's behalf, one after the other, while it refuses.
func (h *Handler) identities(who access.Caller, reg oci.Registry, repository string) []auth.Identity {
	if !h.cfg.HasCentral(reg, repository) {
		return []auth.Identity{auth.Own(who.Authorization)}
	}
	var list []auth.Identity
	if h.cfg.Rules().OwnFirst && !who.Authorization.Empty() {
		list = append(list, auth.Own(who.Authorization))
	}
	return append(list, auth.Central, auth.Anonymous)
}

// hopByHop are the headers that belong to one connection (RFC 9110, section 7.6.1), and those of a login to a proxy.
var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Set-Cookie": true, "Alt-Svc": true,
}

// passResponse writes a registry's response on, but for what concerns its connection alone.
func passResponse(w http.ResponseWriter, resp *http.Response) error {
	header := w.Header()
	for name, values := range resp.Header {
		if !hopByHop[name] {
			header[name] = values
		}
	}
	for _, line := range resp.Header.Values("Connection") {
		for name := range strings.SplitSeq(line, ",") {
			header.Del(strings.TrimSpace(name))
		}
	}
	setLength(header, resp.ContentLength)
	w.WriteHeader(resp.StatusCode)
	out := &flushing{w: w, rc: http.NewResponseController(w)}
	switch _, err := io.Copy(out, resp.Body); {
	case out.err != nil:
		return &errCut{clientGone{out.err}}
	case err != nil:
		return &errCut{err}
	}
	return nil
}

// flushing sends every write on at once: what passes through is not held up here.
type flushing struct {
	w   io.Writer
	rc  *http.ResponseController
	err error // of the client's connection
}

func (f *flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		if err = f.rc.Flush(); errors.Is(err, http.ErrNotSupported) {
			err = nil
		}
	}
	f.err = err
	return n, err
}
