package mitm_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"container-registry-proxy/internal/mitm"
)

// house is a public key infrastructure of the operator's: a root, an authority below it, and what proxies get of it.
type house struct{ dir string }

func newHouse(t *testing.T, subKey func(testing.TB, string), sub ...string) house {
	t.Helper()
	h := house{t.TempDir()}
	smallKey(t, h.path("root.key"))
	selfSigned(t, h.path("root.key"), h.path("root.crt"), authorityOf()...)
	subKey(t, h.path("sub.key"))
	signed(t, h.path("sub.key"), h.path("sub.crt"), "/O=House/CN=Proxies", h.path("root.key"), h.path("root.crt"), sub...)
	return h
}

func (h house) path(name string) string { return filepath.Join(h.dir, name) }

// bundle is the authority with these certificates, in this order, in one file.
func (h house) bundle(t *testing.T, certs ...string) mitm.Config {
	t.Helper()
	var all []byte
	for _, name := range certs {
		data, err := os.ReadFile(h.path(name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	write(t, h.path("bundle.pem"), string(all), 0o644)
	return mitm.Config{CertFile: h.path("bundle.pem"), KeyFile: h.path("sub.key")}
}

func TestChainOfTheOperators(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		key  func(testing.TB, string)
		ext  []string
		sent int // the leaf, what signs it, what is above that but the root
	}{
		"EC":                  {curveKey, authorityOf("authorityKeyIdentifier = keyid"), 2},
		"EC, pathlen:0":       {curveKey, []string{"basicConstraints = critical,CA:TRUE,pathlen:0", "keyUsage = keyCertSign"}, 2},
		"RSA":                 {originalKey, authorityOf(), 3},
		"RSA, pathlen:0":      {originalKey, []string{"basicConstraints = critical,CA:TRUE,pathlen:0"}, 2},
		"RSA, pathlen:1":      {originalKey, []string{"basicConstraints = critical,CA:TRUE,pathlen:1"}, 3},
		"serverAuth":          {curveKey, authorityOf("extendedKeyUsage = clientAuth, serverAuth"), 2},
		"name constraints":    {curveKey, authorityOf("nameConstraints = critical,permitted;DNS:.example.com,permitted;DNS:quay.io"), 2},
		"no keyUsage, no SKI": {curveKey, []string{"basicConstraints = CA:TRUE", "subjectKeyIdentifier = none"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, tt.key, tt.ext...)
			a := open(t, h.bundle(t, "sub.crt", "root.crt"))
			root, err := os.ReadFile(h.path("root.crt"))
			if err != nil || certificate(t, a.CertificatePEM()).Subject.String() != certificate(t, root).Subject.String() {
				t.Errorf("clients are given %s, want the root (%v)", a.CertificatePEM(), err)
			}
			if sent := mustShake(t, a, "quay.io", &tls.Config{}).PeerCertificates; len(sent) != tt.sent {
				t.Errorf("%d certificates sent, want %d", len(sent), tt.sent)
			}
		})
	}
}

// Without the root, clients that have it still find the way: the issuer is sent.
func TestIssuerWithoutItsRoot(t *testing.T) {
	t.Parallel()
	h := newHouse(t, originalKey, authorityOf()...)
	a := open(t, h.bundle(t, "sub.crt"))
	sent := mustShake(t, a, "quay.io", &tls.Config{}).PeerCertificates
	data, err := os.ReadFile(h.path("root.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(data)
	for _, cert := range sent[1:] {
		between.AddCert(cert)
	}
	if _, err := sent[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: "quay.io"}); err != nil {
		t.Error(err)
	}
}

// One file may hold both, as some tools write it.
func TestCertificateAndKeyInOneFile(t *testing.T) {
	t.Parallel()
	h := newHouse(t, curveKey, authorityOf()...)
	cfg := h.bundle(t, "sub.key", "sub.crt", "root.crt")
	cfg.KeyFile = cfg.CertFile
	mustShake(t, open(t, cfg), "quay.io", &tls.Config{})
}

func TestAuthoritiesThatClientsWouldRefuse(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		ext    []string
		bundle []string
		says   []string
	}{
		"a server's certificate":    {[]string{"basicConstraints = CA:FALSE"}, []string{"sub.crt", "root.crt"}, []string{"certificate 1 (CN=Proxies,O=House)", "want a CA certificate"}},
		"no basicConstraints":       {[]string{"keyUsage = keyCertSign"}, []string{"sub.crt", "root.crt"}, []string{"want a CA certificate"}},
		"may sign no certificates":  {[]string{"basicConstraints = CA:TRUE", "keyUsage = cRLSign"}, []string{"sub.crt", "root.crt"}, []string{"want keyUsage with keyCertSign"}},
		"for mail alone":            {authorityOf("extendedKeyUsage = emailProtection"), []string{"sub.crt", "root.crt"}, []string{"serverAuth"}},
		"in the wrong order":        {authorityOf(), []string{"root.crt", "sub.crt"}, []string{"belongs to a later certificate"}},
		"without its own":           {authorityOf(), []string{"root.crt"}, []string{"does not belong to it"}},
		"twice":                     {authorityOf(), []string{"sub.crt", "sub.crt"}, []string{"certificate 1 is not signed by the one that follows it"}},
		"constraints nobody checks": {authorityOf("1.2.3.4 = critical,ASN1:NULL"), []string{"sub.crt", "root.crt"}, []string{"clients would refuse what it signs"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, curveKey, tt.ext...)
			refused(t, h.bundle(t, tt.bundle...), append(tt.says, h.path("bundle.pem"))...)
		})
	}
}

// A root whose path length is used up by the authority below it: nothing that the latter signs is accepted.
func TestPathLengthOfTheRootCounts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		length string
		sent   int
	}{
		"room for no more": {"1", 2},
		"room for one":     {"2", 3},
		"none even for it": {"0", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, smallKey, authorityOf()...)
			selfSigned(t, h.path("root.key"), h.path("root.crt"), "basicConstraints = critical,CA:TRUE,pathlen:"+tt.length, "subjectKeyIdentifier = hash")
			makeKey(t, h.path("sub.key"), "genrsa", "2049") // not the root's
			signed(t, h.path("sub.key"), h.path("sub.crt"), "/O=House/CN=Proxies", h.path("root.key"), h.path("root.crt"), authorityOf()...)
			cfg := h.bundle(t, "sub.crt", "root.crt")
			if tt.sent == 0 {
				refused(t, cfg, "clients would refuse what it signs", cfg.CertFile)
				return
			}
			if sent := mustShake(t, open(t, cfg), "quay.io", &tls.Config{}).PeerCertificates; len(sent) != tt.sent {
				t.Errorf("%d certificates sent, want %d", len(sent), tt.sent)
			}
		})
	}
}

func TestFilesThatAreMissing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, curveKey, authorityOf()...)
	cfg := h.bundle(t, "sub.crt", "root.crt")
	refused(t, mitm.Config{}, "no directory and no files")
	refused(t, mitm.Config{CertFile: cfg.CertFile}, "want both files")
	refused(t, mitm.Config{KeyFile: cfg.KeyFile, Directory: t.TempDir()}, "want both files")
	// A typing error must not make an authority that no client trusts.
	refused(t, mitm.Config{CertFile: cfg.CertFile, KeyFile: h.path("none")}, h.path("none"))
	refused(t, mitm.Config{CertFile: h.path("none"), KeyFile: cfg.KeyFile}, h.path("none"))
	if _, err := os.Stat(h.path("none")); err == nil {
		t.Error("made a file")
	}
}

// The directory is not looked at, and not made, where the operator has files.
func TestDirectoryIsIgnoredBesideFiles(t *testing.T) {
	t.Parallel()
	h := newHouse(t, curveKey, authorityOf()...)
	cfg := h.bundle(t, "sub.crt", "root.crt")
	cfg.Directory = h.path("ca")
	open(t, cfg)
	if _, err := os.Stat(cfg.Directory); err == nil {
		t.Error("made the directory")
	}
}
