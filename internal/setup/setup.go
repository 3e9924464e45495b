// Package setup is the proxy's own pages on its clients' port: what it is, the certificate of its authority, the script
// that sets a client up, and whether it is well. Its invariant: of what a stranger sends, nothing gets into a script that
// root runs but an address made of letters, digits and the punctuation of one. It reads no file and changes nothing.
package setup

import (
	"io"
	"net/http"
)

// Config is what the pages show.
type Config struct {
	// CertificatePEM is the authority's certificate, with those above it if there are any.
	CertificatePEM []byte
	// Healthy says why the proxy is not well, or nothing; nil means always well. Everyone who reaches the port may read
	// what it says.
	Healthy func() error
}

// Handler serves the pages to GET and HEAD, by their exact paths:
//
//	/               that it works, and what to do next
//	/ca.crt         the authority's certificate, PEM
//	/setup/systemd  the script for docker, podman and containerd where systemd runs them
//	/healthz        200, or 503 and the reason
//
// Any other path is 404. It is safe for concurrent use.
func Handler(cfg Config) http.Handler {
	if cfg.Healthy == nil {
		cfg.Healthy = func() error { return nil }
	}
	p := pages{cfg: cfg, authority: authorityOf(cfg.CertificatePEM)}
	byPath := map[string]func(*http.Request) page{
		"/":              p.welcome,
		"/ca.crt":        p.certificate,
		"/setup/systemd": p.systemd,
		"/healthz":       p.health,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The path as it was sent: nothing is cleaned, so nothing has two names.
		show, ok := byPath[r.URL.EscapedPath()]
		switch {
		case !ok:
			send(w, text(http.StatusNotFound, "404: not a page of this proxy; its pages are / /ca.crt /setup/systemd /healthz\n"))
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
	cfg       Config
	authority authority
}

func (p pages) welcome(r *http.Request) page {
	address, ok := clientAddress(r.Host)
	if !ok {
		address = "ADDRESS:3128"
	}
	return text(http.StatusOK, fill(welcomeText, address, p.authority))
}

func (p pages) certificate(*http.Request) page {
	return page{http.StatusOK, "application/x-x509-ca-cert", string(p.cfg.CertificatePEM)}
}

func (p pages) systemd(r *http.Request) page {
	address, ok := clientAddress(r.Host)
	if !ok {
		return text(http.StatusBadRequest, "400: the Host of this request is no address that a client could use as its proxy: want host or host:port, such as 192.168.66.72:3128\n")
	}
	return text(http.StatusOK, fill(systemdScript, address, p.authority))
}

func (p pages) health(*http.Request) page {
	if err := p.cfg.Healthy(); err != nil {
		return text(http.StatusServiceUnavailable, err.Error()+"\n")
	}
	return text(http.StatusOK, "ok\n")
}
