package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"

	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/gather"
	"container-registry-proxy/internal/oci"
)

// hubSearch is the host whose /v1/ is no registry API but Docker Hub's search.
const hubSearch = "index.docker.io"

type interceptionKey struct{}

// withInterception gives the requests of an intercepted connection what is known of it.
func withInterception(ctx context.Context, c net.Conn) context.Context {
	conn := c.(*tls.Conn).NetConn().(*clientConn)
	ctx = withWho(context.WithValue(ctx, interceptionKey{}, conn), conn.who)
	if _, twice := conn.Conn.(*rawConn).Conn.(*tls.Conn); twice {
		return ctx
	}
	return gather.NewContext(ctx, gatherer(conn.Conn.(*rawConn).Conn))
}

// intercepted serves a request on an intercepted connection. One that names another host than the connection was
// opened for is refused: it would be asked of, or cached for, a host that nobody vetted.
func (p *Proxy) intercepted(w http.ResponseWriter, r *http.Request) {
	conn := r.Context().Value(interceptionKey{}).(*clientConn)
	sni := oci.CanonicalHost(r.TLS.ServerName)
	named := newTarget("https", r.Host)
	if r.URL.Scheme == "http" || named != conn.target || sni != "" && sni != conn.target.host {
		accesslog.From(r.Context()).Registry = string(conn.registry)
		writeError(w, r, http.StatusMisdirectedRequest, oci.CodeUnsupported, "this connection was opened for "+conn.target.String()+": ask for another host on a connection of its own")
		return
	}
	p.serve(w, r, conn.registry, conn.target)
}

// serve answers a request to a host of ours: what belongs to the registry API goes there, the rest is passed through.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request, reg oci.Registry, t target) {
	if ours(r.URL.Path, t.host) {
		if p.permit(w, r, reg) {
			p.cfg.Registry.ServeHTTP(w, r.WithContext(oci.NewContext(r.Context(), reg)))
		}
		return
	}
	rec := accesslog.From(r.Context())
	rec.Registry = string(reg)
	may := func(reg oci.Registry, repository string) bool { return p.cfg.Guard().May(admitted(r), reg, repository) }
	if p.cfg.ClientToken != nil {
		if resp := p.cfg.ClientToken(r.Context(), reg, r, may); resp != nil {
			rec.Kind = accesslog.KindToken
			giveToken(w, resp)
			return
		}
	}
	rec.Kind = accesslog.KindRest
	p.pass(w, r.WithContext(oci.NewContext(r.Context(), reg)), t)
}

// giveToken answers a client's token request. Nobody in between may keep the answer.
func giveToken(w http.ResponseWriter, resp *http.Response) {
	defer resp.Body.Close()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // the client may have left; there is nothing more to say
}

// ours reports whether a path is of the registry API, in whatever spelling: one that a server might read as /v2/ must
// not reach it as something else. Some servers resolve dot segments first, others do not; so both readings count.
func ours(decoded, host string) bool {
	asSent := strings.TrimLeft(strings.ReplaceAll(decoded, `\`, "/"), "/")
	resolved := path.Clean("/" + asSent)[1:]
	if decoded == "/"+resolved && tokenPaths[resolved] {
		return false
	}
	for _, reading := range []string{asSent, resolved} {
		first, _, _ := strings.Cut(reading, "/")
		if first == "v2" || first == "v1" && host != hubSearch {
			return true
		}
	}
	return false
}

// tokenPaths are those below /v2/ at which registries have their token services: Quay the first, Google and Gitea the
// second. No repository has so short a path.
var tokenPaths = map[string]bool{"v2/auth": true, "v2/token": true}

// bounded refuses what is too long to be meant well, and has a client's body come in time.
func (p *Proxy) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fields := 0
		for _, values := range r.Header {
			fields += len(values)
		}
		switch {
		case len(r.RequestURI) > maxRequest:
			writeError(w, r, http.StatusRequestURITooLong, oci.CodeUnsupported, "request target is longer than "+strconv.Itoa(maxRequest)+" bytes")
			return
		case fields > maxFields:
			writeError(w, r, http.StatusRequestHeaderFieldsTooLarge, oci.CodeUnsupported, "more than "+strconv.Itoa(maxFields)+" header fields")
			return
		}
		if r.Body != nil && r.Body != http.NoBody && p.cfg.Timeouts.Body > 0 {
			r.Body = &timedBody{ReadCloser: r.Body, rc: http.NewResponseController(w), timeout: p.cfg.Timeouts.Body}
		}
		next.ServeHTTP(w, r)
	})
}

// writeError answers with an OCI error document.
func writeError(w http.ResponseWriter, r *http.Request, status int, code, text string) {
	accesslog.From(r.Context()).Err = text
	body := (&oci.Error{Code: code, Message: text}).Body()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may have left; there is nothing more to say
	}
}
