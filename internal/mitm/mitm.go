// Package mitm is the certificate authority in whose name intercepted connections are terminated: it makes or loads the
// authority, mints a leaf for each host, and hands out the [tls.Config] of a host. Its invariants: what clients were
// told to trust is never replaced, nor is a key ever deleted or overwritten; no key leaves the package, not even into an
// error; and a leaf is minted only for the one host it was asked for. Which hosts are intercepted is not decided here.
package mitm

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// expiryNotice is how long before its end the authority is warned about: long enough to bring another one to every
// client.
const expiryNotice = 30 * day

const day = 24 * time.Hour

// Config has what an Authority needs.
type Config struct {
	// Directory holds ca.crt and ca.key; they are made if neither is there. A directory of the nginx original's is used
	// as it is. Neither read nor made where CertFile is set.
	Directory string
	// CertFile and KeyFile are an authority of the operator's own, PEM: first the certificate that belongs to the key,
	// then its issuers. Both are set, or neither. They are only read.
	CertFile string
	KeyFile  string
	// HTTP2 offers HTTP/2 beside HTTP/1.1.
	HTTP2 bool
	// Log gets what happens; nil means discard.
	Log *slog.Logger
	// Registerer takes the metrics; nil means they are kept nowhere.
	Registerer prometheus.Registerer
}

// Authority mints leaves. It is safe for concurrent use.
type Authority struct {
	log     *slog.Logger
	trusted *x509.Certificate
	expires time.Time
	mint    *mint
	hosts   *hosts
}

// Open loads the authority, or makes one in an empty directory. Its errors say which file is wrong and what to do; that
// of an authority which clients would refuse, expired or no authority at all, is among them.
func Open(cfg Config) (*Authority, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, errors.New("certificate authority: a certificate and its key belong together: want both files, or neither")
	}
	if cfg.CertFile == "" && cfg.Directory == "" {
		return nil, errors.New("certificate authority: no directory and no files: want one or the other")
	}
	p := &pair{certFile: cfg.CertFile, keyFile: cfg.KeyFile}
	if cfg.CertFile == "" {
		p = inDirectory(cfg.Directory)
		if err := p.ensure(cfg.Log); err != nil {
			return nil, fmt.Errorf("certificate authority: %w", err)
		}
	}
	if err := p.load(); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	a, err := p.open(cfg)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	return a, nil
}

// open is Open with a pair that has been loaded.
func (p *pair) open(cfg Config) (*Authority, error) {
	if err := p.check(time.Now()); err != nil {
		return nil, err
	}
	iss, err := newIssuer(p)
	if err != nil {
		return nil, err
	}
	tickets, err := newTickets(p.key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.keyFile, err)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key of the leaves: %w", err)
	}
	a := &Authority{
		log:     cfg.Log,
		trusted: p.chain[len(p.chain)-1],
		expires: p.expires(),
		mint:    &mint{issuer: iss, key: leafKey, minted: newMetrics(cfg.Registerer, p.expires())},
	}
	if err := a.mint.prove(a.trusted); err != nil {
		return nil, fmt.Errorf("%s: clients would refuse what it signs: %w", p.certFile, err)
	}
	a.hosts = newHosts(a.mint, tickets, cfg.HTTP2)
	p.warnOfReaders(cfg.Log)
	a.log.Info("certificate authority loaded", "certificate", p.certFile, "subject", a.trusted.Subject.String(),
		"fingerprint", a.Fingerprint(), "expires", a.expires.UTC().Format(time.DateOnly))
	return a, nil
}

// Fingerprint is the SHA-256 of the certificate that clients are to trust, as openssl prints it.
func (a *Authority) Fingerprint() string {
	sum := sha256.Sum256(a.trusted.Raw)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
}

// CertificatePEM is the certificate that clients are to trust: the topmost one there is.
func (a *Authority) CertificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.trusted.Raw})
}

// TLSConfig is what a connection to an intercepted host, a name or an IP address without a port, is terminated with. Its
// leaf is that host's, whatever name the client asks for. The caller must not change it; it is meant to be asked for
// anew for every connection, which costs a look into a map. For what cannot be a host's name the handshake fails. Its own
// GetConfigForClient is what keeps tickets from clients without TLS 1.3: who wraps it in another's has to do the same.
func (a *Authority) TLSConfig(host string) *tls.Config { return a.hosts.config(host) }

// Run warns while the authority is about to expire, at once and then daily, until ctx ends.
func (a *Authority) Run(ctx context.Context) error {
	daily := time.NewTicker(day)
	defer daily.Stop()
	for {
		if left := time.Until(a.expires); left <= expiryNotice {
			a.log.Warn("certificate authority expires soon: clients will refuse everything it has signed; make another one and give it to them",
				"expires", a.expires.UTC().Format(time.RFC3339), "days_left", max(0, int(left/day)), "fingerprint", a.Fingerprint())
		}
		select {
		case <-daily.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
