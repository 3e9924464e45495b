package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// ping answers /v2/ (end-1). With central credentials it is answered here, so that no client looks for a login of its
// own; without, the registry's challenge is what the client needs to see. While pushes are allowed clients must be able
// to log in everywhere. A registry in trouble does not stop a pull of what is cached: 200.
func (h *Handler) ping(w http.ResponseWriter, r *http.Request, reg oci.Registry) error {
	if h.cfg.HasCentral(reg, "") && (!h.cfg.AllowPush || !caller(r).Authorization.Empty()) {
		return pong(w)
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), h.cfg.GiveUp, errHangs)
	defer cancel()
	proxy := h.relay(reg)
	toRegistry := proxy.Rewrite
	proxy.Rewrite = func(pr *httputil.ProxyRequest) {
		toRegistry(pr)
		for name := range pr.Out.Header {
			if name != "Authorization" && name != "Accept" && name != "User-Agent" {
				pr.Out.Header.Del(name)
			}
		}
		pr.Out.Body, pr.Out.ContentLength = nil, 0
	}
	proxy.ModifyResponse = func(resp *http.Response) error {
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
			return fmt.Errorf("ping answered %d", resp.StatusCode)
		}
		return nil
	}
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
		accesslog.From(r.Context()).Err = err.Error()
		_ = pong(w) // the client may have left
	}
	proxy.ServeHTTP(w, r.WithContext(ctx))
	return nil
}

var errHangs = errors.New("registry hangs")

func pong(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "2")
	_, err := io.WriteString(w, "{}")
	return err
}

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
		},
		ErrorLog: slog.NewLogLogger(h.cfg.Log.Handler(), slog.LevelDebug),
	}
}

// list passes through what is neither a pull nor a push: tags/list, referrers, the catalog. It is asked for as the
// caller's class says and never kept.
func (h *Handler) list(w http.ResponseWriter, r *http.Request, reg oci.Registry, p oci.Path) error {
	as := auth.Own(caller(r).Authorization)
	if h.cfg.HasCentral(reg, p.Repository) {
		as = auth.Central
	}
	scope := auth.PullScope(p.Repository)
	if p.Kind == oci.KindCatalog {
		scope = "registry:catalog:*"
	}
	path := p.String()
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	resp, err := h.cfg.Upstream.Do(r.Context(), upstream.Request{
		Method: r.Method, Registry: reg, Path: path, Scope: scope, As: as,
		Header: http.Header{"Accept": r.Header.Values("Accept")},
	})
	if err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		g := access.Grant{Registry: reg, As: as}
		if as.IsCentral() {
			g.Class = access.Central
		}
		return g.Refusal(resp)
	}
	defer resp.Body.Close()
	mark(w, r, p, &cache.Content{Outcome: cache.Bypass})
	return passResponse(w, resp)
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
