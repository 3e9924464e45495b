package mitm_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"

	"container-registry-proxy/internal/mitm"
)

// open opens an authority, which must succeed.
func open(t testing.TB, cfg mitm.Config) *mitm.Authority {
	t.Helper()
	a, err := mitm.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// shake makes a handshake over a pipe, as a client that trusts nothing but the authority's certificate, and exchanges a
// byte, so that the client has read the tickets. It returns what the client saw.
func shake(a *mitm.Authority, host string, client *tls.Config) (tls.ConnectionState, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.CertificatePEM())
	client = client.Clone()
	client.RootCAs = roots
	if client.ServerName == "" {
		client.ServerName = host
	}
	near, far := net.Pipe()
	served := make(chan error, 1)
	go func() {
		conn := tls.Server(far, a.TLSConfig(host))
		_, err := conn.Write([]byte("x"))
		served <- err
		_ = far.Close()
	}()
	conn := tls.Client(near, client)
	_, err := conn.Read(make([]byte, 1))
	state := conn.ConnectionState()
	_ = near.Close()
	<-served
	return state, err
}

func TestMadeOnceThenLoaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/ca"
	first := open(t, mitm.Config{Directory: dir})
	second := open(t, mitm.Config{Directory: dir})
	if first.Fingerprint() != second.Fingerprint() {
		t.Errorf("fingerprint %s, then %s: want one authority", first.Fingerprint(), second.Fingerprint())
	}
	if _, err := shake(second, "registry-1.docker.io", &tls.Config{}); err != nil {
		t.Error(err)
	}
}
