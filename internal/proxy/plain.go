package proxy

import (
	"net"
	"net/http"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/oci"
)

// plain serves a request outside TLS. In absolute form it is for a host: a plain HTTP registry, any other host on port
// 80, or ourselves; in origin form it is for our own pages.
func (p *Proxy) plain(w http.ResponseWriter, r *http.Request) {
	rec := accesslog.From(r.Context())
	if r.URL.Host == "" {
		p.ourselves(w, r)
		return
	}
	t := newTarget("http", r.URL.Host)
	reg, registry := p.cfg.InterceptPlain(r.URL.Host)
	if r.URL.Scheme == "http" && !registry && p.cfg.Dialer.Own(r.Context(), net.JoinHostPort(t.host, t.port)) {
		p.ourselves(w, r)
		return
	}
	r, ok := p.admit(w, r)
	if !ok {
		return
	}
	if r.URL.Scheme != "http" {
		rec.Kind = accesslog.KindForward
		writeError(w, r, http.StatusForbidden, oci.CodeDenied, "only http:// is forwarded: use CONNECT for "+newTarget("https", r.URL.Host).String())
		return
	}
	if registry {
		p.metrics.connections.WithLabelValues("plain").Inc()
		p.serve(w, r, reg, t)
		return
	}
	rec.Kind, rec.Registry = accesslog.KindForward, t.String()
	if t.port != "80" {
		writeError(w, r, http.StatusForbidden, oci.CodeDenied, "plain HTTP is forwarded to port 80 alone: name "+t.String()+" in REGISTRIES if it is a registry")
		return
	}
	p.metrics.connections.WithLabelValues("forward").Inc()
	p.pass(w, r, t)
}

// ourselves answers what is asked of us: as a mirror, or for our own pages, which are for everybody: they hold no secret,
// and a client needs them before it can be any other's.
func (p *Proxy) ourselves(w http.ResponseWriter, r *http.Request) {
	if ours(r.URL.Path, hubSearch) {
		if r, ok := p.admit(w, r); ok {
			p.mirror(w, r)
		}
		return
	}
	accesslog.From(r.Context()).Kind = accesslog.KindLocal
	p.cfg.Local.ServeHTTP(w, r)
}
