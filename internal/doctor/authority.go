package doctor

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// maxCertificate bounds what the proxy's /ca.crt may be.
const maxCertificate = 1 << 20

// expirySoon is how long before its end an authority is worth a warning: long enough to give another one to all clients.
const expirySoon = 30 * 24 * time.Hour

// certificate gets the proxy's authority and looks at its dates.
func (e *examination) certificate(ctx context.Context) Finding {
	if !e.answers {
		return finding(Unknown, "needs an answer of the proxy")
	}
	resp, err := e.get(ctx, e.cfg.Proxy, "/ca.crt")
	if err != nil {
		return finding(Bad, "the proxy does not hand out its authority: %s", short(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxCertificate))
	block, _ := pem.Decode(body)
	if err != nil || resp.StatusCode != http.StatusOK || block == nil {
		return finding(Bad, "http://%s/ca.crt is no certificate: something else may listen there", e.cfg.Proxy)
	}
	if e.authority, err = x509.ParseCertificate(block.Bytes); err != nil {
		return finding(Bad, "http://%s/ca.crt cannot be read: %s", e.cfg.Proxy, short(err))
	}
	// By the proxy's clock: that this machine's is wrong has a line of its own.
	now, last := e.date, e.authority.NotAfter.UTC().Format(time.DateOnly)
	switch {
	case now.After(e.authority.NotAfter):
		return finding(Bad, "the proxy's authority expired on %s: make another one and set the clients up again", last)
	case now.Before(e.authority.NotBefore):
		return finding(Bad, "the proxy's authority is valid only from %s on", e.authority.NotBefore.UTC().Format(time.DateOnly))
	case e.authority.NotAfter.Sub(now) < expirySoon:
		return finding(Warning, "the proxy's authority expires on %s: make another one and set the clients up again", last)
	}
	return finding(Good, "the proxy's authority is valid until %s", last)
}

// bundles are the files that programs of a system read their trusted roots from, the first that is there being the one.
var bundles = []string{
	"etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Alpine, Arch
	"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
	"etc/pki/tls/certs/ca-bundle.crt",                  // older ones of these
	"var/lib/ca-certificates/ca-bundle.pem",            // SUSE
	"etc/ssl/ca-bundle.pem", "etc/ssl/cert.pem",
}

// anchors is what the set-up scripts install, by the file name that they give it.
const anchor = "container_registry_proxy.crt"

// trust finds out whether programs of this machine trust the proxy's authority.
func (e *examination) trust(context.Context) Finding {
	if e.authority == nil {
		return finding(Unknown, "needs the proxy's authority")
	}
	if !e.pullsHere() {
		return finding(Unknown, "nothing on this machine pulls images")
	}
	for _, name := range bundles {
		content, err := os.ReadFile(filepath.Join(e.cfg.Root, name))
		if err != nil {
			continue
		}
		if holds(content, e.authority) {
			return e.trustOfDaemons(finding(Good, "/%s has the proxy's authority", name))
		}
		if mirrors := e.mirrorFiles(); len(mirrors) > 0 {
			return finding(Good, "/%s does not have the proxy's authority, and need not: %s uses the proxy as a mirror", name, mirrors[0])
		}
		return finding(Bad, "/%s does not have the proxy's authority: put http://%s/ca.crt where update-ca-certificates or update-ca-trust looks, as %s, and run that", name, e.cfg.Proxy, anchor)
	}
	return finding(Unknown, "this machine has no file of trusted roots in a place known here")
}

// trustOfDaemons is otherwise, unless a daemon that uses the proxy was told of a file of roots of its own, which lacks the
// authority.
func (e *examination) trustOfDaemons(otherwise Finding) Finding {
	for _, name := range daemons {
		environ, running := e.environOf(name)
		file := environ["SSL_CERT_FILE"]
		if !running || file == "" || value(environ, "HTTPS_PROXY", "https_proxy") == "" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(e.cfg.Root, file))
		if err != nil {
			return finding(Bad, "%s was started with SSL_CERT_FILE=%s, which cannot be read: %s", name, file, short(err))
		}
		if !holds(content, e.authority) {
			return finding(Bad, "%s was started with SSL_CERT_FILE=%s, which does not have the proxy's authority: add http://%s/ca.crt to it, or leave that variable away, and restart it", name, file, e.cfg.Proxy)
		}
	}
	return otherwise
}

// holds reports whether a PEM file has a certificate.
func holds(content []byte, certificate *x509.Certificate) bool {
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			return false
		}
		if bytes.Equal(block.Bytes, certificate.Raw) {
			return true
		}
	}
}

// short is an error in one line, without the addresses that precede its cause.
func short(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:]
	}
	return strings.ReplaceAll(text, "\n", " ")
}
