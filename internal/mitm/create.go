package mitm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"container-registry-proxy/internal/durable"
)

// lifetime of an authority that is made here. It ends before 2038, when clocks of 32 bits do; the limits of 398 and 825
// days that some clients set are for leaves.
const lifetime = 3650 * day

// backdate is how long before now a certificate becomes valid: clients' clocks are late at times.
const backdate = 24 * time.Hour

func inDirectory(dir string) *pair {
	return &pair{certFile: filepath.Join(dir, "ca.crt"), keyFile: filepath.Join(dir, "ca.key")}
}

// ensure makes what is missing of the pair, the key first: a crash in between leaves a key without a certificate, for
// which the next start issues one. A key is never replaced, so even when a certificate was lost that clients trust, the
// old one can be put back. A certificate without its key is an error: it may be what clients trust.
//
// Processes that share the directory take turns.
func (p *pair) ensure(log *slog.Logger) error {
	if exists(p.certFile) && exists(p.keyFile) {
		return nil
	}
	dir := filepath.Dir(p.certFile)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	hasCert, hasKey := exists(p.certFile), exists(p.keyFile)
	switch {
	case hasCert && hasKey:
		return nil
	case hasCert:
		return fmt.Errorf("%s is there and its key %s is not: put the key back; or, to get another authority, move the certificate away, start again and give every client the new /ca.crt", p.certFile, p.keyFile)
	case hasKey:
		log.Warn("certificate authority has a key and no certificate: a new one is issued, which clients have to be given; if the old one is to be found, put it back", "key", p.keyFile, "certificate", p.certFile)
	default:
		if err := writeKey(p.keyFile); err != nil {
			return err
		}
	}
	if err := p.writeCertificate(time.Now()); err != nil {
		return err
	}
	log.Info("certificate authority made: clients have to be given its certificate", "certificate", p.certFile)
	return nil
}

// exists is false only where there certainly is nothing: what cannot be looked at is not to be replaced.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// lock waits for other processes that make an authority in dir. On a file system without locks it does not wait.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for errors.Is(syscall.Flock(int(d.Fd()), syscall.LOCK_EX), syscall.EINTR) {
		continue
	}
	return func() { _ = d.Close() }, nil
}

func writeKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// writeCertificate issues the certificate of the key that is on disk.
func (p *pair) writeCertificate(now time.Time) error {
	data, err := readFile(p.keyFile)
	if err != nil {
		return err
	}
	key, err := parseKey(p.keyFile, data)
	if err != nil {
		return err
	}
	der, err := selfSign(key, now)
	if err != nil {
		return fmt.Errorf("%s: %w", p.keyFile, err)
	}
	return durable.WriteFile(p.certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// selfSign issues an authority's certificate. It may have no authority below it but where the key, found without its
// certificate, is an RSA key: see [newIssuer].
func selfSign(key crypto.Signer, now time.Time) ([]byte, error) {
	_, slow := key.(*rsa.PrivateKey)
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{organization}, CommonName: commonName(now)},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        !slow,
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

const organization = "container-registry-proxy"

// maxCommonName is the upper bound ub-common-name of RFC 5280.
const maxCommonName = 64

// commonName says what the authority is, where and when it was made: two of one machine can be told apart in a client's
// list.
func commonName(now time.Time) string {
	const what, when = "container-registry-proxy CA ", " 2006-01-02"
	host, _ := os.Hostname()
	host = strings.Map(func(r rune) rune {
		if r == '-' || r == '.' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, host)
	if host == "" {
		host = "localhost"
	}
	return what + host[:min(len(host), maxCommonName-len(what)-len(when))] + now.UTC().Format(when)
}
