package mitm_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/mitm"
)

func longName(n int) string {
	return strings.Repeat("a", 60) + strings.Repeat("."+strings.Repeat("b", 60), n/61) + ".example.com"
}

func TestLeafIsForTheOneHost(t *testing.T) {
	t.Parallel()
	a := open(t, mitm.Config{Directory: t.TempDir()})
	for host, want := range map[string]string{
		"registry-1.docker.io":  "registry-1.docker.io",
		"Registry.EXAMPLE.com.": "registry.example.com",
		"build_cache":           "build_cache",
		"192.0.2.7":             "192.0.2.7",
		"[2001:DB8::1]":         "2001:db8::1",
		"2001:db8:0::1":         "2001:db8::1",
		"::ffff:192.0.2.7":      "192.0.2.7",
		"fe80::1%eth0":          "fe80::1",
		longName(80):            longName(80),
		longName(180):           longName(180),
	} {
		state, err := shake(a, host, &tls.Config{ServerName: want})
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		leaf := state.PeerCertificates[0]
		names := slices.Clone(leaf.DNSNames)
		for _, ip := range leaf.IPAddresses {
			names = append(names, ip.String())
		}
		if !slices.Equal(names, []string{want}) {
			t.Errorf("%s: names %q, want only %q", host, names, want)
		}
		if cn := leaf.Subject.CommonName; len(cn) > 64 || cn != "" && cn != want {
			t.Errorf("%s: common name %q, want the host or nothing", host, cn)
		}
		if leaf.IsCA || !leaf.BasicConstraintsValid || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) ||
			leaf.KeyUsage != x509.KeyUsageDigitalSignature || leaf.SerialNumber.BitLen() < 100 || leaf.PublicKeyAlgorithm != x509.ECDSA {
			t.Errorf("%s: leaf is %+v, want a server's and nothing more", host, leaf)
		}
		if begun, left := time.Since(leaf.NotBefore), time.Until(leaf.NotAfter); begun < 23*time.Hour || begun+left > 7*day+time.Minute {
			t.Errorf("%s: valid since %v for another %v, want a day back and a week in all", host, begun, left)
		}
	}
}

func TestWhatIsNoHostGetsNoLeaf(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	a := open(t, mitm.Config{Directory: t.TempDir(), Registerer: reg})
	for _, host := range []string{
		"", ".", "..", "*.docker.io", "*", "a b", "a/b", "quay.io:443", "a..b", "bücher.example", "a\x00b", "a,b",
		"[::1]:443", strings.Repeat("a", 64) + ".com", longName(300), "quay.io\n",
	} {
		if _, err := shake(a, host, &tls.Config{ServerName: "quay.io"}); err == nil {
			t.Errorf("%q: handshake, want none", host)
		}
	}
	if n := metric(t, reg, "leaves_minted_total"); n != 0 || a.Kept() != 0 {
		t.Errorf("%v leaves minted and %d hosts kept, want none", n, a.Kept())
	}
}

// That the client asks for another name is answered in HTTP, which needs a handshake.
func TestLeafIsThatOfTheHostWhateverTheClientAsksFor(t *testing.T) {
	t.Parallel()
	a := open(t, mitm.Config{Directory: t.TempDir()})
	for _, asked := range []string{"evil.example", ""} {
		state, err := shake(a, "quay.io", &tls.Config{ServerName: asked, InsecureSkipVerify: true})
		if err != nil || !slices.Equal(state.PeerCertificates[0].DNSNames, []string{"quay.io"}) {
			t.Errorf("asked for %q: %v, leaf of %v; want that of quay.io", asked, err, state.PeerCertificates)
		}
	}
}

func TestProtocols(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, tt := range []struct {
		http2   bool
		offered []string
		want    string
	}{
		{false, []string{"h2", "http/1.1"}, "http/1.1"},
		{true, []string{"h2", "http/1.1"}, "h2"},
		{true, []string{"http/1.1"}, "http/1.1"},
		{false, nil, ""},
	} {
		a := open(t, mitm.Config{Directory: dir, HTTP2: tt.http2})
		if got := mustShake(t, a, "quay.io", &tls.Config{NextProtos: tt.offered}).NegotiatedProtocol; got != tt.want {
			t.Errorf("HTTP2 %v, client offers %v: %q, want %q", tt.http2, tt.offered, got, tt.want)
		}
	}
	a := open(t, mitm.Config{Directory: dir})
	if _, err := shake(a, "quay.io", &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("handshake with TLS 1.1, want none")
	}
	mustShake(t, a, "quay.io", &tls.Config{MaxVersion: tls.VersionTLS12})
}

// An RSA authority that has to sign itself takes milliseconds, in which the others arrive.
func TestConcurrentMintsOfAHostCoalesce(t *testing.T) {
	t.Parallel()
	dir, reg := t.TempDir(), prometheus.NewRegistry()
	originalKey(t, filepath.Join(dir, "ca.key"))
	selfSigned(t, filepath.Join(dir, "ca.key"), filepath.Join(dir, "ca.crt"), "basicConstraints = critical,CA:TRUE,pathlen:0")
	a := open(t, mitm.Config{Directory: dir, Registerer: reg})
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 60 {
		wg.Go(func() {
			<-start
			host := fmt.Sprintf("registry-%d.example.com", i%3)
			if _, err := shake(a, host, &tls.Config{}); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		})
	}
	close(start)
	wg.Wait()
	if n := metric(t, reg, "leaves_minted_total"); n != 3 {
		t.Errorf("%v leaves minted for 3 hosts", n)
	}
}

// A clock that was a year ahead when a leaf was minted, and was then set right: the leaf begins in the future.
func TestClockThatIsSetBack(t *testing.T) {
	t.Parallel()
	a := open(t, mitm.Config{Directory: t.TempDir()})
	for _, ahead := range []time.Duration{25 * time.Hour, 365 * day} {
		if err := a.KeepMintedAt("quay.io", time.Now().Add(ahead)); err != nil {
			t.Fatal(err)
		}
		mustShake(t, a, "quay.io", &tls.Config{})
	}
}

// Two months of a process: no client ever sees a leaf that is about to end, and few are minted.
func TestLeavesAreReplacedBeforeTheyEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		a := open(t, mitm.Config{Directory: dir, Registerer: reg})
		for range 60 * 4 {
			leaf := mustShake(t, a, "quay.io", &tls.Config{}).PeerCertificates[0]
			if left := time.Until(leaf.NotAfter); left < 2*day {
				t.Fatalf("on %v a leaf has %v left", time.Now(), left)
			}
			time.Sleep(6 * time.Hour)
		}
		if n := metric(t, reg, "leaves_minted_total"); n < 9 || n > 21 {
			t.Errorf("%v leaves minted in two months, want one or two a week", n)
		}
	})
}

// The last week of an authority: leaves end with it, and are not minted over and over.
func TestLeavesEndWithTheAuthority(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		a := open(t, mitm.Config{Directory: dir, Registerer: reg})
		end := certificate(t, a.CertificatePEM()).NotAfter
		time.Sleep(time.Until(end) - 2*day)
		for range 47 {
			leaf := mustShake(t, a, "quay.io", &tls.Config{}).PeerCertificates[0]
			if leaf.NotAfter.After(end) {
				t.Fatalf("leaf ends %v, after the authority, %v", leaf.NotAfter, end)
			}
			time.Sleep(time.Hour)
		}
		if n := metric(t, reg, "leaves_minted_total"); n != 1 {
			t.Errorf("%v leaves minted, want 1", n)
		}
		time.Sleep(2 * time.Hour)
		if _, err := shake(a, "quay.io", &tls.Config{}); err == nil || !strings.Contains(err.Error(), "mint quay.io: the certificate authority expired on 2009-12-29") {
			t.Errorf("after its end: %v, want the reason", err)
		}
	})
}

// A wildcard makes hosts of what strangers ask for: those that are used stay, the others go.
func TestManyHostsAreBounded(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	a := open(t, mitm.Config{Directory: t.TempDir(), Registerer: reg})
	mustShake(t, a, "quay.io", &tls.Config{})
	mustShake(t, a, "ghcr.io", &tls.Config{})
	for i := range 3 * mitm.MaxHosts {
		a.TLSConfig(fmt.Sprintf("%d.example.com", i))
		if i%100 == 0 {
			a.TLSConfig("quay.io")
		}
	}
	if n := a.Kept(); n != mitm.MaxHosts {
		t.Errorf("%d hosts kept, want %d", n, mitm.MaxHosts)
	}
	mustShake(t, a, "quay.io", &tls.Config{})
	if n := metric(t, reg, "leaves_minted_total"); n != 2 {
		t.Errorf("%v leaves minted, want that of the host in use kept", n)
	}
	mustShake(t, a, "ghcr.io", &tls.Config{})
	if n := metric(t, reg, "leaves_minted_total"); n != 3 {
		t.Errorf("%v leaves minted, want another one for the host that went", n)
	}
}

// What openssl, and clients that ask it to be strict (Python 3.13 does), say of what is sent.
func TestOpensslAcceptsTheChain(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]func(testing.TB, string){"own": nil, "adopted": originalKey, "adopted, older": olderOriginalKey} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if key != nil {
				dir = original(t, key)
			}
			a := open(t, mitm.Config{Directory: dir})
			for _, host := range []string{"registry-1.docker.io", longName(180), "192.0.2.7"} {
				sent := mustShake(t, a, host, &tls.Config{}).PeerCertificates
				files := make([]string, len(sent))
				for i, cert := range sent {
					files[i] = filepath.Join(t.TempDir(), "sent")
					write(t, files[i], string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})), 0o600)
				}
				check := "-verify_hostname"
				if net.ParseIP(host) != nil {
					check = "-verify_ip"
				}
				openssl(t, "verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-purpose", "sslserver", check, host,
					"-CAfile", filepath.Join(dir, "ca.crt"), "-untrusted", files[1], files[0])
				if out, err := tryOpenssl(t, "verify", "-no-CApath", "-no-CAstore", "-verify_hostname", "evil.example",
					"-CAfile", filepath.Join(dir, "ca.crt"), "-untrusted", files[1], files[0]); err == nil {
					t.Errorf("openssl takes the leaf of %s for evil.example: %s", host, out)
				}
			}
		})
	}
}

// Not parallel: it looks at the heap of the process.
func TestMemoryOfManyHosts(t *testing.T) {
	a := open(t, mitm.Config{Directory: t.TempDir()})
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range 4 * mitm.MaxHosts {
		if _, err := a.TLSConfig(fmt.Sprintf("%d.example.com", i)).GetCertificate(nil); err != nil {
			t.Fatal(err)
		}
	}
	grown := int64(heap()) - int64(before)
	runtime.KeepAlive(a)
	t.Logf("%d hosts take %d KiB", mitm.MaxHosts, grown>>10)
	if grown > 20<<20 {
		t.Errorf("the heap grew by %d bytes, want less than 20 MiB", grown)
	}
}
