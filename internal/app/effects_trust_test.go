package app_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// effectVerifySSL: false exempts the registries that are named, with what they redirect to, and nobody else.
func effectVerifySSL(t *testing.T) {
	world := registrytest.NewWorld(t)
	reg := registrytest.New(t, registrytest.Config{World: world, Name: "self-signed.test", Faults: registrytest.Faults{Redirect: 307}})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	environ := []string{"UPSTREAM_CA_FILE=", "REGISTRIES=" + reg.Host()}

	checked := start(t, world, environ...)
	checked.ask("GET", reg.URL()+"/v2/app/manifests/1").expect(t, 503, "UNAVAILABLE", "self-signed.test", "certificate")
	if got := checked.metric("upstream_unverified"); got != 0 {
		t.Errorf("upstream_unverified = %v with VERIFY_SSL unset, want 0", got)
	}
	if n := len(reg.Requests()); n != 0 {
		t.Errorf("%d requests reached a registry whose certificate is not to be trusted", n)
	}

	unchecked := start(t, world, append(environ, "VERIFY_SSL=false")...)
	unchecked.pull(reg, "app", "1").wantOutcomes(t, "MISS", "MISS")
	if got := unchecked.metric("upstream_unverified"); got != 1 {
		t.Errorf("upstream_unverified = %v with VERIFY_SSL=false, want 1", got)
	}
	unchecked.log.await(t, func(l line) bool { return l.Level == "WARN" && strings.Contains(l.Msg, "VERIFY_SSL=false") })

	// Docker Hub is a registry of ours always, and named here by nobody.
	hub := registrytest.New(t, registrytest.Config{World: world, Name: "registry-1.docker.io", Port: usualPort(t)})
	hub.PushImage("library/app", "1", layers(1, 1, 1000)...)
	unchecked.ask("GET", "https://registry-1.docker.io/v2/library/app/manifests/1").expect(t, 503, "certificate")
}

func effectUpstreamCAFile(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	without := start(t, reg.World, "REGISTRIES="+reg.Host(), "UPSTREAM_CA_FILE=")
	without.ask("GET", reg.URL()+"/v2/app/manifests/1").expect(t, 503, "UNAVAILABLE", "certificate signed by unknown authority")
	with := start(t, reg.World, "REGISTRIES="+reg.Host(), "UPSTREAM_CA_FILE="+reg.CAFile())
	with.pull(reg, "app", "1").wantOutcomes(t, "MISS", "MISS")
}

// effectCADirectory: what is there is used, or made: then clients keep trusting it after a restart.
func effectCADirectory(t *testing.T) {
	world := registrytest.NewWorld(t)
	dir := filepath.Join(t.TempDir(), "new", "authority")
	first := start(t, world, "CA_DIRECTORY="+dir)
	served := first.local("GET", "/ca.crt").body
	if kept, err := os.ReadFile(filepath.Join(dir, "ca.crt")); err != nil || !bytes.Equal(kept, served) {
		t.Errorf("ca.crt in CA_DIRECTORY is not the one that is served: %v", err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "ca.key"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want mode %v", path, info.Mode(), err, want)
		}
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	second := start(t, world, "CA_DIRECTORY="+dir)
	if !bytes.Equal(second.local("GET", "/ca.crt").body, served) {
		t.Error("a restart in the same CA_DIRECTORY serves another authority")
	}
}

// authorityFiles is an authority of an operator's own: a root, and an intermediate that signs.
func authorityFiles(t *testing.T) (certFile, keyFile string, root *x509.Certificate) {
	t.Helper()
	sign := func(name string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		}
		if parent == nil {
			parent, signer = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	root, rootKey := sign("root", nil, nil)
	middle, middleKey := sign("middle", root, rootKey)
	der, err := x509.MarshalPKCS8PrivateKey(middleKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "own.crt"), filepath.Join(dir, "own.key")
	var chain []byte
	for _, cert := range []*x509.Certificate{middle, root} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	write(t, map[string]string{certFile: string(chain), keyFile: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))})
	return certFile, keyFile, root
}

// effectCAFiles: clients that trust the operator's root alone pull, and no other authority is made.
func effectCAFiles(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	certFile, keyFile, root := authorityFiles(t)
	h := start(t, reg.World, "REGISTRIES="+reg.Host(), "CA_CRT_FILE="+certFile, "CA_KEY_FILE="+keyFile)
	h.trusted = x509.NewCertPool()
	h.trusted.AddCert(root)
	h.http = h.client(nil)
	h.pull(reg, "app", "1").wantOutcomes(t, "MISS", "MISS")
	if !h.intercepts(reg.Host()) {
		t.Error("the leaf does not lead to the operator's root")
	}
	if _, err := os.Stat(filepath.Join(h.root, "ca")); !os.IsNotExist(err) {
		t.Errorf("an authority was made in CA_DIRECTORY beside the operator's: %v", err)
	}
}

// effectCAKeyFile: a key of somebody else stops the start, and both files are named.
func effectCAKeyFile(t *testing.T) {
	certFile, _, _ := authorityFiles(t)
	_, otherKey, _ := authorityFiles(t)
	_, err := plan{world: registrytest.NewWorld(t), environ: []string{"CA_CRT_FILE=" + certFile, "CA_KEY_FILE=" + otherKey}}.open(t)
	if err == nil || !strings.Contains(err.Error(), certFile) || !strings.Contains(err.Error(), otherKey) {
		t.Errorf("a key of another certificate: %v, want an error that names both files", err)
	}
}

// tlsFiles is a certificate of the world's for a name, as files.
func tlsFiles(t *testing.T, world *registrytest.World, name string) (certFile, keyFile string) {
	t.Helper()
	pair := world.Certificate(time.Now().Add(time.Hour), name)
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		write(t, map[string]string{path: string(pem.EncodeToMemory(block))})
	}
	return certFile, keyFile
}

// greetsAs is the certificate, checked against the roots, that the proxy itself shows to a client that calls it by name.
func (h *house) greetsAs(name string, roots *x509.CertPool) (*x509.Certificate, error) {
	h.t.Helper()
	conn := tls.Client(h.dial(), &tls.Config{ServerName: name, RootCAs: roots})
	defer conn.Close()
	if err := conn.HandshakeContext(h.t.Context()); err != nil {
		return nil, err
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}

func effectTLSFiles(t *testing.T) {
	world := registrytest.NewWorld(t)
	certFile, keyFile := tlsFiles(t, world, "proxy.example")
	h := start(t, world, "TLS_CRT_FILE="+certFile, "TLS_KEY_FILE="+keyFile)
	if _, err := h.greetsAs("proxy.example", world.Pool()); err != nil {
		t.Errorf("TLS to the proxy with TLS_CRT_FILE: %v", err)
	}
	without := start(t, world)
	if _, err := without.greetsAs("localhost", without.trusted); err != nil {
		t.Errorf("TLS to the proxy without TLS_CRT_FILE: %v, want a leaf of its authority", err)
	}
}

func effectTLSKeyFile(t *testing.T) {
	world := registrytest.NewWorld(t)
	certFile, _ := tlsFiles(t, world, "proxy.example")
	_, otherKey := tlsFiles(t, world, "proxy.example")
	_, err := plan{world: world, environ: []string{"TLS_CRT_FILE=" + certFile, "TLS_KEY_FILE=" + otherKey}}.open(t)
	if err == nil || !strings.Contains(err.Error(), "TLS_KEY_FILE") {
		t.Errorf("a key of another certificate: %v, want an error that names TLS_KEY_FILE", err)
	}
}

// effectSetupAddress: clients are set up for the address that the operator names, whatever they asked, and get a
// certificate for it.
func effectSetupAddress(t *testing.T) {
	h := start(t, registrytest.NewWorld(t), "SETUP_ADDRESS=https://proxy.example:8443")
	h.local("GET", "/").expect(t, 200, "HTTPS_PROXY=https://proxy.example:8443/")
	h.local("GET", "/setup/docker").expect(t, 200, "'HTTPS_PROXY=https://proxy.example:8443/'")
	h.local("GET", "/setup/docker?mode=mirror").expect(t, 200, `"registry-mirrors": ["https://proxy.example:8443"]`)
	if _, err := h.greetsAs("proxy.example", h.trusted); err != nil {
		t.Errorf("TLS to the proxy by the name of SETUP_ADDRESS: %v, want a leaf for it", err)
	}
	byAddress := start(t, registrytest.NewWorld(t), "SETUP_ADDRESS=https://192.0.2.1:3128")
	if _, err := byAddress.greetsAs("192.0.2.1", byAddress.trusted); err != nil {
		t.Errorf("TLS to the proxy by the address of SETUP_ADDRESS, for which clients send no name: %v, want a leaf for it", err)
	}
	without := start(t, registrytest.NewWorld(t))
	without.local("GET", "/setup/docker").expect(t, 200, "'HTTPS_PROXY=http://"+without.address+"/'")
}

func effectTLSNames(t *testing.T) {
	world := registrytest.NewWorld(t)
	h := start(t, world, "TLS_NAMES=proxy.example")
	if cert, err := h.greetsAs("proxy.example", h.trusted); err != nil || cert.VerifyHostname("proxy.example") != nil {
		t.Errorf("a name of TLS_NAMES: %v, want a leaf for it", err)
	}
	if _, err := h.greetsAs("bank.example", h.trusted); err == nil {
		t.Error("a name that is not ours got a leaf")
	}
}
