package mitm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"time"
)

// issuer is what leaves are signed with.
type issuer struct {
	cert    *x509.Certificate
	key     crypto.Signer
	sent    [][]byte  // DER of what follows a leaf in a handshake
	expires time.Time // of the first that expires between here and what clients trust
}

// newIssuer is the pair itself, or a P-256 authority below it that lives as long as the process, where the pair's key is
// an RSA key and its path length allows one. RSA-4096, the nginx originals' kind, takes 50 times as long to mint with,
// 6.8 ms: where a wildcard is configured, a stranger could keep a core busy by asking for 150 new names a second. Clients
// pay nothing for it: they check a signature more, and are sent one large certificate less, as they have the topmost.
func newIssuer(p *pair) (*issuer, error) {
	chain, key := p.chain, p.key
	if _, slow := key.(*rsa.PrivateKey); slow && roomBelow(chain) {
		below, belowKey, err := intermediate(p)
		if err != nil {
			return nil, fmt.Errorf("sign with %s: %w", p.keyFile, err)
		}
		chain, key = append([]*x509.Certificate{below}, chain...), belowKey
	}
	iss := &issuer{cert: chain[0], key: key, expires: p.expires()}
	for i, cert := range chain {
		if i > 0 && i == len(chain)-1 && selfIssued(cert) {
			break // clients have it, or they would not trust it
		}
		iss.sent = append(iss.sent, cert.Raw)
	}
	return iss, nil
}

// roomBelow reports whether every path length of the chain allows one more authority at its end.
func roomBelow(chain []*x509.Certificate) bool {
	for below, cert := range chain {
		limited := cert.MaxPathLen > 0 || cert.MaxPathLen == 0 && cert.MaxPathLenZero
		if limited && cert.MaxPathLen < below+1 {
			return false
		}
	}
	return true
}

func intermediate(p *pair) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	// Each process has its own; with one name for all, a client that remembers intermediates would mistake them.
	var id [8]byte
	_, _ = rand.Read(id[:])
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{organization}, CommonName: "container-registry-proxy issuer " + hex.EncodeToString(id[:])},
		NotBefore:             time.Now().Add(-backdate),
		NotAfter:              p.expires(),
		KeyUsage:              x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.chain[0], key.Public(), p.key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}
