package proxy

import (
	"net/http"
	"net/url"
	"strings"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/oci"
)

// mirrored is what a request to us as a mirror means: a registry, and the path that the registry knows.
type mirrored struct {
	registry oci.Registry
	path     oci.Path
	// prefix and ns are how the client named the registry, so that what it is told to ask for next comes back here: a
	// component of the path, or a parameter of the query.
	prefix, ns string
}

// mirror answers a request for /v2/ that is made to us and not to a registry: containerd names the registry in "?ns=",
// podman and CRI-O in the first component of the path, and dockerd, which knows mirrors of Docker Hub alone, nowhere.
//
// The ping is answered here, and outside TLS no challenge is passed on and no Authorization taken: dockerd would answer
// one with its login for Docker Hub, in plain text.
func (p *Proxy) mirror(w http.ResponseWriter, r *http.Request) {
	rec := accesslog.From(r.Context())
	if clean := strings.TrimSuffix(r.URL.Path, "/"); clean == "/v2" && r.URL.Query().Get("ns") == "" {
		rec.Kind = oci.KindPing.String()
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}")) // the client may have left; there is nothing more to say
		return
	}
	m, err := p.mirrored(r)
	if err != nil {
		rec.Kind, rec.Err = accesslog.KindLocal, err.Error()
		writeError(w, r, err.Status(), err.Code, err.Message)
		return
	}
	inner := r.Clone(oci.NewContext(r.Context(), m.registry))
	inner.URL.RawPath = m.path.String()
	inner.URL.Path, _ = url.PathUnescape(inner.URL.RawPath) // it came out of an escaped path
	if query := inner.URL.Query(); query.Has("ns") {
		query.Del("ns")
		inner.URL.RawQuery = query.Encode()
	}
	if r.TLS == nil {
		inner.Header.Del("Authorization")
	}
	if !p.permit(w, inner, m.registry) {
		return
	}
	p.metrics.connections.WithLabelValues("mirror").Inc()
	mw := &mirrorWriter{ResponseWriter: w, means: m, secure: r.TLS != nil}
	p.cfg.Registry.ServeHTTP(mw, inner)
	if !mw.started {
		mw.WriteHeader(http.StatusOK) // as net/http does
	}
}

// mirrored finds out what a request means. The error's message is for the client.
func (p *Proxy) mirrored(r *http.Request) (mirrored, *oci.Error) {
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/v2/")
	if !ok && r.URL.Path != "/v2" {
		return mirrored{}, &oci.Error{Code: oci.CodeUnsupported, HTTPStatus: http.StatusNotFound, Message: "path has a second spelling of /v2/, which nothing needs"}
	}
	if ns := r.URL.Query().Get("ns"); ns != "" {
		return p.named(mirrored{ns: ns}, ns, rest)
	}
	first, more, _ := strings.Cut(rest, "/")
	if host, err := url.PathUnescape(first); err == nil && namesHost(host) {
		if _, err := oci.ParsePath("/v2/" + more); err == nil && more != "" {
			return p.named(mirrored{prefix: host}, host, more)
		}
	}
	def, _ := p.cfg.Mirror()
	return p.named(mirrored{}, string(def), rest)
}

// named fills in the registry and the path of m, if both are what may be asked for.
func (p *Proxy) named(m mirrored, host, rest string) (mirrored, *oci.Error) {
	reg, ok := p.cfg.Intercept(host)
	if _, all := p.cfg.Mirror(); !ok && all {
		parsed, err := oci.ParseRegistry(host)
		reg, ok = parsed, err == nil
	}
	if !ok {
		return mirrored{}, &oci.Error{Code: oci.CodeDenied, Message: "registry " + shown(host) + " is not one of this proxy's: name it in REGISTRIES, or allow all with MIRROR_ALL_REGISTRIES=true"}
	}
	path, err := oci.ParsePath("/v2/" + rest)
	if err != nil {
		if wire, ok := err.(*oci.Error); ok {
			return mirrored{}, wire
		}
		return mirrored{}, &oci.Error{Code: oci.CodeNameInvalid, Message: "path is not one of the registry API"}
	}
	// "alpine" is short for "library/alpine", on Docker Hub alone (the reference grammar of Docker).
	if reg == oci.DockerHub && path.Repository != "" && !strings.Contains(path.Repository, "/") {
		path.Repository = "library/" + path.Repository
	}
	m.registry, m.path = reg, path
	return m, nil
}

// namesHost tells the first component of an image's name that is a host from one that begins a repository, as Docker's
// reference grammar does.
func namesHost(component string) bool {
	return component == "localhost" || strings.ContainsAny(component, ".:")
}

// shown makes a client's word safe to show.
func shown(s string) string {
	if len(s) > 100 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:[]") != "" {
		return "of that name"
	}
	return s
}

// mirrorWriter has what a registry tells a client to ask for next come back to us.
type mirrorWriter struct {
	http.ResponseWriter
	means   mirrored
	secure  bool
	started bool
}

func (w *mirrorWriter) WriteHeader(status int) {
	if !w.started && status >= 200 {
		w.started = true
		header := w.Header()
		for i, link := range header["Link"] {
			header["Link"][i] = w.means.link(link)
		}
		if location := header.Get("Location"); location != "" {
			header.Set("Location", w.means.ours(location))
		}
		if !w.secure {
			header.Del("Www-Authenticate")
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *mirrorWriter) Write(b []byte) (int, error) {
	if !w.started {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets [http.ResponseController] find the rest.
func (w *mirrorWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// link rewrites the target of a Link header, "<URL>; rel=next" (RFC 8288).
func (m mirrored) link(value string) string {
	before, rest, ok := strings.Cut(value, "<")
	target, after, closed := strings.Cut(rest, ">")
	if !ok || !closed {
		return value
	}
	return before + "<" + m.ours(target) + ">" + after
}

// ours turns a URL of the registry's API into the one under which a client gets the same from us. Other URLs stay.
func (m mirrored) ours(target string) string {
	u, err := url.Parse(target)
	if err != nil || u.Host != "" && newTarget(u.Scheme, u.Host) != newTarget(m.registry.Scheme(), m.registry.Authority()) {
		return target
	}
	rest, ok := strings.CutPrefix(u.EscapedPath(), "/v2/")
	if !ok {
		return target
	}
	path := "/v2/" + rest
	if m.prefix != "" {
		path = "/v2/" + m.prefix + "/" + rest
	}
	query := u.Query()
	if m.ns != "" {
		query.Set("ns", m.ns)
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return path
}
