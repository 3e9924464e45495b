// Package setup is the proxy's own pages on its clients' port: what it is, the certificate of its authority, the script
// that sets a client up, and whether it is well. Its invariant: of what a stranger sends, nothing gets into a script that
// root runs but addresses made of letters, digits and the punctuation of one. It reads no file and changes nothing.
package setup

import (
	"io"
	"net/http"
	"strings"
)

// Config is what the pages show.
type Config struct {
	// CertificatePEM is the authority's certificate, with those above it if there are any.
	CertificatePEM []byte
	// Address is how clients reach the proxy, http:// or https:// and host or host:port, as config.Config has it. Empty means
	// as they do that ask for a page.
	Address string
	// Registries are those that the proxy mirrors, host or host:port, for clients that want each of them by name.
	Registries []string
	// Healthy says why the proxy is not well, or nothing; nil means always well. Everyone who reaches the port may read
	// what it says.
	Healthy func() error
}

// Handler serves the pages to GET and HEAD, by their exact paths:
//
//	/                    that it works, and what to do next
//	/ca.crt              the authority's certificate, PEM
//	/setup/CLIENT        the script that sets one of Clients up; ?mode=mirror and ?no_proxy=… as in Options
//	/setup/CLIENT/undo   the script that sets it back
//	/healthz             200, or 503 and the reason
//
// Any other path is 404. It is safe for concurrent use.
func Handler(cfg Config) http.Handler {
	if cfg.Healthy == nil {
		cfg.Healthy = func() error { return nil }
	}
	p := pages{cfg: cfg, proxy: destination{authority: authorityOf(cfg.CertificatePEM)}}
	for _, registry := range cfg.Registries {
		if hostPort.MatchString(registry) {
			p.proxy.registries = append(p.proxy.registries, registry)
		}
	}
	byPath := map[string]func(*http.Request) page{
		"/":        p.welcome,
		"/ca.crt":  p.certificate,
		"/healthz": p.health,
	}
	for _, c := range clients {
		byPath["/setup/"+c.name] = func(r *http.Request) page { return p.script(c, r) }
		byPath["/setup/"+c.name+"/undo"] = func(r *http.Request) page { return p.undo(c, r) }
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The path as it was sent: nothing is cleaned, so nothing has two names.
		show, ok := byPath[r.URL.EscapedPath()]
		switch {
		case !ok:
			send(w, text(http.StatusNotFound, "404: not a page of this proxy; its pages are / /ca.crt /healthz and /setup/ with one of "+strings.Join(Clients(), ", ")+"\n"))
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			send(w, text(http.StatusMethodNotAllowed, "405: want GET or HEAD\n"))
		default:
			send(w, show(r))
		}
	})
}

// page is an answer.
type page struct {
	status      int
	contentType string
	body        string
}

func text(status int, body string) page { return page{status, "text/plain; charset=utf-8", body} }

func send(w http.ResponseWriter, p page) {
	w.Header().Set("Content-Type", p.contentType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store") // the authority may be another one tomorrow
	w.WriteHeader(p.status)
	_, _ = io.WriteString(w, p.body) // the client may have left; there is nothing more to say
}

type pages struct {
	cfg   Config
	proxy destination // but for where it is, which known says
}

// known is the proxy as the operator says that clients know it, or by the name that it was asked by.
func (p pages) known(r *http.Request) (proxy destination, ok bool) {
	proxy = p.proxy
	host := r.Host
	proxy.tls = r.TLS != nil
	if scheme, address, set := strings.Cut(p.cfg.Address, "://"); set {
		host, proxy.tls = address, scheme == "https"
	}
	if proxy.address, ok = clientAddress(host); ok && proxy.tls {
		proxy.address = proxy.authorityName() // clients look for a certificate under the name that they were given
	}
	return proxy, ok
}

func (p pages) welcome(r *http.Request) page {
	proxy, ok := p.known(r)
	if !ok {
		proxy.address = "ADDRESS:3128"
	}
	return text(http.StatusOK, values{
		"PROXY": proxy.url(), "FINGERPRINT": p.proxy.authority.fingerprint, "CLIENTS": strings.Join(Clients(), ", "),
	}.fill(welcomeText))
}

func (p pages) certificate(*http.Request) page {
	return page{http.StatusOK, "application/x-x509-ca-cert", string(p.cfg.CertificatePEM)}
}

// script sets a client up to use the proxy.
func (p pages) script(c client, r *http.Request) page {
	options, err := parseOptions(r.URL.RawQuery)
	if err != nil {
		return text(http.StatusBadRequest, "400: "+err.Error()+"\n")
	}
	proxy, ok := p.known(r)
	if !ok {
		return text(http.StatusBadRequest, "400: the Host of this request is no address that a client could use as its proxy: want host or host:port, such as 192.168.66.72:3128\n")
	}
	script, err := proxy.setUp(c, options)
	if err != nil {
		return text(http.StatusBadRequest, "400: "+err.Error()+"\n")
	}
	return text(http.StatusOK, script)
}

func (p pages) undo(c client, r *http.Request) page {
	if _, err := parseOptions(r.URL.RawQuery); err != nil {
		return text(http.StatusBadRequest, "400: "+err.Error()+"\n")
	}
	script, err := Undo(c.name)
	if err != nil {
		return text(http.StatusInternalServerError, "500: "+err.Error()+"\n")
	}
	return text(http.StatusOK, script)
}

func (p pages) health(*http.Request) page {
	if err := p.cfg.Healthy(); err != nil {
		return text(http.StatusServiceUnavailable, err.Error()+"\n")
	}
	return text(http.StatusOK, "ok\n")
}
