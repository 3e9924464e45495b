// Package registrytest is a fake registry with its token service and its CDN, for tests alone. Every knob is named for
// a habit of a real registry or for a fault of a real network; without any, it keeps the distribution specification.
// Its invariant: it sends what it was told to send and remembers what it was asked, so that a test can compare both. It
// speaks over real sockets, from addresses of 127.0.0.0/8 that [World] gives names to, and knows nothing of the proxy.
package registrytest

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"container-registry-proxy/internal/oci"
)

// Login is what a registry wants of a client.
type Login int

// Logins.
const (
	Open   Login = iota // nothing
	Basic               // a user name and a password, as with htpasswd
	Bearer              // a token of the token service, as nearly everywhere
)

// Config says what kind of registry it is. The zero value is an open one over TLS, named registry.test.
type Config struct {
	// World is where it lives; nil makes one. Registries that share a world share its authority and its names.
	World *World

	// Name, TokenName and CDNName are its hosts. Empty means "registry.test", "auth." and "cdn." before Name. A token
	// service of the same name as the registry is served by the registry's own host, below /token.
	Name, TokenName, CDNName string

	// Port, TokenPort and CDNPort are where they listen; 0 means any. Each host has an address of its own, so all
	// may have the same one.
	Port, TokenPort, CDNPort int

	// PlainHTTP leaves TLS away on all hosts.
	PlainHTTP bool

	// HTTP2 offers HTTP/2. The faults that cut a connection need HTTP/1.1.
	HTTP2 bool

	// Login is what is asked of clients. With Basic every user may do everything, and nobody else may do anything, unless
	// Private says otherwise. With Bearer everyone may pull, by an anonymous token, what is not Private; users may push.
	Login Login

	// Users are names and passwords.
	Users map[string]string

	// Private lists who may pull and push a repository. With Basic, a non-nil map opens the repositories it does not name.
	Private map[string][]string

	// Tokens are habits of the token service.
	Tokens Tokens

	// Faults are those it starts with; [Registry.Set] changes them.
	Faults Faults
}

// Registry is a running fake. Safe for concurrent use.
type Registry struct {
	*World
	*Log
	cfg  Config
	host string // authority: "registry.test:40001"
	cdn  string
	auth string
	// second is the authority of the second token service.
	second string

	content *content
	tokens  *tokens

	// mu guards the fields that follow it.
	mu      sync.Mutex
	faults  Faults
	changed chan struct{} // closed by Set; stalled answers look again
	left    map[string]int
}

// New starts a registry, its token service and its CDN. They end with the test.
func New(t testing.TB, cfg Config) *Registry {
	t.Helper()
	if cfg.World == nil {
		cfg.World = NewWorld(t)
	}
	if cfg.Name == "" {
		cfg.Name = "registry.test"
	}
	if cfg.TokenName == "" {
		cfg.TokenName = "auth." + cfg.Name
	}
	if cfg.CDNName == "" {
		cfg.CDNName = "cdn." + cfg.Name
	}
	r := &Registry{
		World: cfg.World, Log: newLog(t), cfg: cfg, content: newContent(), tokens: newTokens(),
		faults: cfg.Faults, changed: make(chan struct{}), left: map[string]int{},
	}
	r.host = r.start(cfg.Name, cfg.Port, func(f Faults) Outage { return f.Registry }, r.serveRegistry)
	r.cdn = r.start(cfg.CDNName, cfg.CDNPort, func(f Faults) Outage { return f.CDN }, r.serveCDN)
	r.auth = r.host
	if cfg.TokenName != cfg.Name {
		r.auth = r.start(cfg.TokenName, cfg.TokenPort, func(f Faults) Outage { return f.Token }, r.serveTokens)
	}
	if cfg.Tokens.Second != "" {
		r.second = r.start(cfg.Tokens.Second, cfg.TokenPort, func(f Faults) Outage { return f.Token }, r.serveSecond)
	}
	return r
}

// start serves one host: its outage first, then its handler, all of it logged.
func (r *Registry) start(name string, port int, outage func(Faults) Outage, handler http.HandlerFunc) string {
	r.World.t.Helper()
	return r.serve(site{
		name: name, port: port, plain: r.cfg.PlainHTTP, http2: r.cfg.HTTP2, accept: r.spoiler(outage),
		handler: r.Log.handler(name, func(w http.ResponseWriter, req *http.Request) {
			if !r.fail(w, req, name, outage) {
				handler(w, req)
			}
		}),
	})
}

// Host is the registry's authority, "registry.test:40001": what stands before an image's name.
func (r *Registry) Host() string { return r.host }

// TokenHost is the token service's authority.
func (r *Registry) TokenHost() string { return r.auth }

// CDNHost is the CDN's authority.
func (r *Registry) CDNHost() string { return r.cdn }

// Name is the registry's name as the proxy knows it.
func (r *Registry) Name() oci.Registry {
	parse := oci.ParseRegistry
	if r.cfg.PlainHTTP {
		parse = oci.ParsePlainRegistry
	}
	reg, err := parse(r.host)
	if err != nil {
		panic(err) // we made the name
	}
	return reg
}

// URL is the registry's, without a path.
func (r *Registry) URL() string { return r.scheme() + "://" + r.host }

func (r *Registry) scheme() string {
	if r.cfg.PlainHTTP {
		return "http"
	}
	return "https"
}

// serveRegistry is the registry's host: the API, and what a CDN of its own name would serve.
func (r *Registry) serveRegistry(w http.ResponseWriter, req *http.Request) {
	switch {
	case r.auth == r.host && strings.HasPrefix(req.URL.Path, r.tokenPath()):
		r.serveTokens(w, req)
		return
	case strings.HasPrefix(req.URL.Path, storagePath):
		r.serveStorage(w, req)
		return
	}
	p, err := oci.ParsePath(req.URL.EscapedPath())
	if err != nil {
		fail(w, 404, oci.CodeUnsupported, err.Error())
		return
	}
	if !r.permit(w, req, p) {
		return
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	switch p.Kind {
	case oci.KindPing:
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}"))
	case oci.KindManifest:
		r.serveManifest(w, req, p)
	case oci.KindBlob:
		r.serveBlob(w, req, p)
	case oci.KindUpload:
		r.serveUpload(w, req, p)
	case oci.KindTags:
		r.serveTags(w, req, p)
	case oci.KindReferrers:
		r.serveReferrers(w, req, p)
	default:
		fail(w, 404, oci.CodeUnsupported, "no catalog")
	}
}

// fail answers with the specification's error document.
func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write((&oci.Error{Code: code, Message: message}).Body())
}
