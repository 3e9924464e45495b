package mitm

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"
)

// maxFile bounds what is read of a file. A chain of RSA-4096 certificates takes 2 KiB for each.
const maxFile = 1 << 20

// pair is an authority as it is on disk.
type pair struct {
	certFile string
	keyFile  string

	chain []*x509.Certificate // first the key's own, then its issuers; clients trust the last
	key   crypto.Signer
}

func (p *pair) load() error {
	data, err := readFile(p.certFile)
	if err != nil {
		return err
	}
	if p.chain, err = parseChain(p.certFile, data); err != nil {
		return err
	}
	if data, err = readFile(p.keyFile); err != nil {
		return err
	}
	p.key, err = parseKey(p.keyFile, data)
	return err
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: larger than %d bytes: want PEM", path, maxFile)
	}
	return data, nil
}

// parseChain returns the certificates of a PEM file. Other blocks in it, such as the key, are skipped.
func parseChain(path string, data []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %w", path, len(chain)+1, err)
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("%s: holds no certificate: want PEM, -----BEGIN CERTIFICATE-----", path)
	}
	return chain, nil
}

// check reports why clients would not accept what the pair signs.
func (p *pair) check(now time.Time) error {
	if !belongs(p.key, p.chain[0]) {
		if slices.ContainsFunc(p.chain, func(c *x509.Certificate) bool { return belongs(p.key, c) }) {
			return fmt.Errorf("%s: the key %s belongs to a later certificate: want that one first, then its issuers", p.certFile, p.keyFile)
		}
		return fmt.Errorf("%s: the key %s does not belong to it: want the two that were made together", p.certFile, p.keyFile)
	}
	for i, cert := range p.chain {
		if err := maySign(cert); err != nil {
			return fmt.Errorf("%s: certificate %d (%s): %w", p.certFile, i+1, cert.Subject, err)
		}
		if i+1 < len(p.chain) {
			if err := cert.CheckSignatureFrom(p.chain[i+1]); err != nil {
				return fmt.Errorf("%s: certificate %d is not signed by the one that follows it: want each followed by its issuer: %w", p.certFile, i+1, err)
			}
		}
		if err := p.inForce(cert, now); err != nil {
			return fmt.Errorf("%s: certificate %d (%s) %w", p.certFile, i+1, cert.Subject, err)
		}
	}
	return nil
}

func belongs(key crypto.Signer, cert *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}

func maySign(cert *x509.Certificate) error {
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return errors.New("not an authority's (basicConstraints has no CA:TRUE): want a CA certificate, not a server's")
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("may not sign certificates: want keyUsage with keyCertSign")
	case len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny):
		return errors.New("may not sign servers' certificates: want no extendedKeyUsage, or one with serverAuth")
	}
	return nil
}

func (p *pair) inForce(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.After(cert.NotAfter):
		return fmt.Errorf("expired on %s, clients refuse all it signs: move %s and %s away, start again to get another authority, and give every client the new /ca.crt",
			cert.NotAfter.UTC().Format(time.DateOnly), p.certFile, p.keyFile)
	case now.Before(cert.NotBefore):
		return fmt.Errorf("is valid from %s on, and this machine's clock says %s: set the clock, or use another authority",
			cert.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// expires is when the first certificate of the chain ends.
func (p *pair) expires() time.Time {
	return slices.MinFunc(p.chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }).NotAfter
}

// warnOfReaders says if every user of the machine may read the key.
func (p *pair) warnOfReaders(log *slog.Logger) {
	info, err := os.Stat(p.keyFile)
	if err == nil && info.Mode().Perm()&0o004 != 0 {
		log.Warn("key of the certificate authority may be read by every user of this machine: want mode 0600", "path", p.keyFile, "mode", fmt.Sprintf("%#o", info.Mode().Perm()))
	}
}

func selfIssued(cert *x509.Certificate) bool { return bytes.Equal(cert.RawSubject, cert.RawIssuer) }
