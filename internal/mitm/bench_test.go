package mitm_test

import (
	"crypto/tls"
	"path/filepath"
	"testing"

	"container-registry-proxy/internal/mitm"
)

// authorities are the kinds that sign: our own, an adopted one, which signs through an issuer of the process, and one
// whose path length leaves no room for that.
func authorities(b *testing.B) map[string]*mitm.Authority {
	b.Helper()
	narrow := b.TempDir()
	originalKey(b, filepath.Join(narrow, "ca.key"))
	selfSigned(b, filepath.Join(narrow, "ca.key"), filepath.Join(narrow, "ca.crt"), "basicConstraints = critical,CA:TRUE,pathlen:0", "subjectKeyIdentifier = hash")
	return map[string]*mitm.Authority{
		"own":                open(b, mitm.Config{Directory: b.TempDir()}),
		"adopted":            open(b, mitm.Config{Directory: original(b, originalKey)}),
		"adopted, pathlen:0": open(b, mitm.Config{Directory: narrow}),
	}
}

func BenchmarkMint(b *testing.B) {
	for name, a := range authorities(b) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := a.Mint("registry-1.docker.io"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Both ends of it, the client's check of the chain included.
func BenchmarkHandshake(b *testing.B) {
	for name, a := range authorities(b) {
		for kind, client := range map[string]*tls.Config{
			"full":         {},
			"full, 1.2":    {MaxVersion: tls.VersionTLS12},
			"resumed":      {ClientSessionCache: tls.NewLRUClientSessionCache(1)},
			"full, x25519": {CurvePreferences: []tls.CurveID{tls.X25519}},
		} {
			b.Run(name+"/"+kind, func(b *testing.B) {
				for b.Loop() {
					if _, err := shake(a, "registry-1.docker.io", client); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for name, dir := range map[string]string{"adopted": original(b, originalKey), "adopted, traditional": original(b, olderOriginalKey)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				open(b, mitm.Config{Directory: dir})
			}
		})
	}
}

func BenchmarkTLSConfig(b *testing.B) {
	a := open(b, mitm.Config{Directory: b.TempDir()})
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			a.TLSConfig("registry-1.docker.io")
		}
	})
}
