package mitm

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/oci"
)

// leafLifetime is how long a new leaf is valid from now on: with backdate before it, a week.
const leafLifetime = 6 * day

// subject is the host of a leaf: a name, or an address.
type subject struct {
	name string
	ip   net.IP
}

// parseSubject takes what may stand in a URL as a host and nothing else; a wildcard above all is no host.
func parseSubject(host string) (subject, error) {
	host = oci.CanonicalHost(host)
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap().WithZone("")
		return subject{name: addr.String(), ip: addr.AsSlice()}, nil
	}
	if _, err := oci.ParseRegistry(host); err != nil || strings.Contains(host, ":") || len(host) > 253 {
		return subject{}, fmt.Errorf("mint %.64q: want a host name or an IP address", host)
	}
	return subject{name: host}, nil
}

// leaf is a certificate of one host, and when it is to be replaced.
type leaf struct {
	cert   *tls.Certificate
	minted time.Time
	renew  time.Time // no earlier than which, unless the clock has been set
}

// usable reports whether clients with a right clock accept the leaf for a good while yet. A clock that was set back
// makes it unusable too: it would begin in the future.
func (l *leaf) usable(now time.Time) bool {
	return l != nil && now.Before(l.renew) && now.After(l.minted.Add(-backdate/2))
}

// mint makes leaves. They share one key, as what reads one from the memory of a process reads all.
type mint struct {
	issuer *issuer
	key    *ecdsa.PrivateKey
	minted prometheus.Counter
}

func (m *mint) leaf(s subject, now time.Time) (*leaf, error) {
	if now.After(m.issuer.expires) {
		return nil, fmt.Errorf("mint %s: the certificate authority expired on %s", s.name, m.issuer.expires.UTC().Format(time.DateOnly))
	}
	end := now.Add(leafLifetime)
	renew := now.Add(leafLifetime / 2)
	if end.After(m.issuer.expires) {
		end = m.issuer.expires
		renew = end // another one would not last longer
	}
	template := leafTemplate(now, end)
	if len(s.name) <= maxCommonName {
		template.Subject.CommonName = s.name // for people; clients read the alternative name
	}
	if s.ip != nil {
		template.IPAddresses = []net.IP{s.ip}
	} else {
		template.DNSNames = []string{s.name}
	}
	der, err := m.sign(template)
	if err != nil {
		return nil, fmt.Errorf("mint %s: %w", s.name, err)
	}
	m.minted.Inc()
	return &leaf{
		cert:   &tls.Certificate{Certificate: append([][]byte{der}, m.issuer.sent...), PrivateKey: m.key},
		minted: now,
		renew:  renew,
	}, nil
}

func leafTemplate(begin, end time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{organization}},
		NotBefore:             begin.Add(-backdate),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
}

func (m *mint) sign(template *x509.Certificate) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, template, m.issuer.cert, m.key.Public(), m.issuer.key)
}

// prove reports why a client that trusts this one certificate would refuse what is minted. The leaf it tries has no name
// at all, so that an authority's name constraints have nothing to say.
func (m *mint) prove(trusted *x509.Certificate) error {
	now := time.Now()
	der, err := m.sign(leafTemplate(now, now.Add(time.Hour)))
	if err != nil {
		return err
	}
	tried, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(trusted)
	for _, sent := range m.issuer.sent {
		cert, err := x509.ParseCertificate(sent)
		if err != nil {
			return err
		}
		between.AddCert(cert)
	}
	_, err = tried.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now})
	return err
}
