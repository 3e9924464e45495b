package proxy

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httputil"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/oci"
)

type targetKey struct{}

// newRest returns the handler that passes requests on to the target in their context: any method and Upgrade too, with
// the client's own headers but for those of its connection, and nothing kept.
func (p *Proxy) newRest() http.Handler {
	return &httputil.ReverseProxy{
		Transport:     p.cfg.Upstream,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(p.cfg.Log.Handler(), slog.LevelDebug),
		Rewrite: func(pr *httputil.ProxyRequest) {
			t := pr.In.Context().Value(targetKey{}).(target)
			pr.Out.URL.Scheme, pr.Out.URL.Host = t.scheme, t.String()
			pr.Out.URL.RawQuery, pr.Out.URL.ForceQuery = pr.In.URL.RawQuery, pr.In.URL.ForceQuery
			pr.Out.Host = pr.In.Host
			// Untouched means those too that a reverse proxy would make anew.
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values, ok := pr.In.Header[name]; ok {
					pr.Out.Header[name] = values
				}
			}
			if _, ok := pr.In.Header["User-Agent"]; !ok {
				pr.Out.Header["User-Agent"] = nil // keep net/http from adding its own
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			p.saw(resp.Request, resp.StatusCode < 500)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				accesslog.From(r.Context()).Status = accesslog.StatusClientGone
				panic(http.ErrAbortHandler) // to return without an answer would be a 200
			}
			p.saw(r, false)
			status, text := dialFailure(r.Context().Value(targetKey{}).(target).String(), err)
			code := oci.CodeUnavailable
			if status == http.StatusForbidden {
				code = oci.CodeDenied
			}
			writeError(w, r, status, code, text)
		},
	}
}

// saw takes note of whether an intercepted host, if it was one, has answered.
func (p *Proxy) saw(r *http.Request, answered bool) {
	if reg, ok := oci.RegistryFrom(r.Context()); ok && p.cfg.Saw != nil {
		p.cfg.Saw(reg, answered)
	}
}

// pass passes a request on to t.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request, t target) {
	p.rest.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), targetKey{}, t)))
}
