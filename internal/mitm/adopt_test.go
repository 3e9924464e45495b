package mitm_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"container-registry-proxy/internal/mitm"
)

func TestOriginalVolumeIsAdoptedUnchanged(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]func(testing.TB, string){"OpenSSL 3": originalKey, "OpenSSL 1.1": olderOriginalKey} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, log := original(t, key), &lines{}
			before := snapshot(t, dir)
			a := open(t, mitm.Config{Directory: dir, Log: log.logger()})
			onDisk, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a.CertificatePEM(), onDisk) {
				t.Errorf("clients are given %s, want %s", a.CertificatePEM(), onDisk)
			}
			state := mustShake(t, a, "registry-1.docker.io", &tls.Config{})
			// The leaf, the issuer of this process; not the authority, which clients have.
			if sent := state.PeerCertificates; len(sent) != 2 || sent[1].PublicKeyAlgorithm != x509.ECDSA {
				t.Errorf("sent %d certificates, want the leaf and an ECDSA issuer", len(sent))
			}
			if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
				t.Errorf("the directory changed: %s", diff)
			}
			if log.warnings() != 0 || strings.Contains(log.String(), "foobar") {
				t.Errorf("log %s, want no warning", log)
			}
		})
	}
}

// Each process has an issuer of its own below the adopted authority; clients must not take one for the other.
func TestIssuersOfProcessesDiffer(t *testing.T) {
	t.Parallel()
	dir := original(t, originalKey)
	issuer := func() *x509.Certificate {
		return mustShake(t, open(t, mitm.Config{Directory: dir}), "quay.io", &tls.Config{}).PeerCertificates[1]
	}
	a, b := issuer(), issuer()
	if a.Subject.String() == b.Subject.String() || bytes.Equal(a.SubjectKeyId, b.SubjectKeyId) {
		t.Errorf("issuers %s and %s: want names and key identifiers that differ", a.Subject, b.Subject)
	}
}

// The commands that make each form of key which is read.
func keyForms() map[string][]string {
	return map[string][]string{
		"PKCS#8 RSA":                    {"genrsa", "2048"},
		"PKCS#1 RSA":                    {"genrsa", "-traditional", "2048"},
		"PKCS#1 RSA, 3DES":              {"genrsa", "-traditional", "-des3", "-passout", "pass:foobar", "2048"},
		"PKCS#1 RSA, AES-256":           {"genrsa", "-traditional", "-aes256", "-passout", "pass:foobar", "2048"},
		"PKCS#8 RSA, PBES2 3DES":        {"genrsa", "-des3", "-passout", "pass:foobar", "2048"},
		"PKCS#8 RSA, PBES2 AES-256":     {"genrsa", "-aes256", "-passout", "pass:foobar", "2048"},
		"PKCS#8 EC":                     {"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
		"PKCS#8 EC, PBES2":              {"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-aes-128-cbc", "-pass", "pass:foobar"},
		"SEC 1 EC, behind its curve":    {"ecparam", "-name", "prime256v1", "-genkey"},
		"PKCS#8 Ed25519":                {"genpkey", "-algorithm", "ED25519"},
		"PKCS#8 Ed25519, PBES2 AES-256": {"genpkey", "-algorithm", "ED25519", "-aes-256-cbc", "-pass", "pass:foobar"},
	}
}

func TestFormsOfKeys(t *testing.T) {
	t.Parallel()
	for name, command := range keyForms() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cert, key := filepath.Join(dir, "own.pem"), filepath.Join(dir, "own.key")
			makeKey(t, key, command...)
			selfSigned(t, key, cert, authorityOf()...)
			mustShake(t, open(t, mitm.Config{CertFile: cert, KeyFile: key}), "quay.io", &tls.Config{})
		})
	}
	// Forms that take two commands.
	for name, convert := range map[string][]string{
		"PKCS#8, PBES2 scrypt": {"pkcs8", "-topk8", "-scrypt", "-passout", "pass:foobar"},
		"SEC 1, AES-128":       {"ec", "-aes128", "-passout", "pass:foobar"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			plain, cert, key := filepath.Join(dir, "plain.key"), filepath.Join(dir, "own.pem"), filepath.Join(dir, "own.key")
			curveKey(t, plain)
			selfSigned(t, plain, cert, authorityOf()...)
			openssl(t, append(convert, "-in", plain, "-out", key)...)
			mustShake(t, open(t, mitm.Config{CertFile: cert, KeyFile: key}), "quay.io", &tls.Config{})
		})
	}
}

// A key that cannot be read: the error names the file and a command, and the command works.
func TestKeysThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		passphrase string
		says       string
		convert    []string
	}{
		"another passphrase":              {"secret-1", "passphrase other than", []string{"pkcs8", "-topk8", "-v2", "aes256"}},
		"another passphrase, traditional": {"secret-1", "passphrase other than", []string{"rsa", "-traditional", "-des3"}},
		"PBES1":                           {"foobar", "old scheme", []string{"pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES"}},
		"a hash that is not supported":    {"foobar", "unsupported hash", []string{"pkcs8", "-topk8", "-v2prf", "hmacWithSHA512"}},
		"a cipher that is not supported":  {"foobar", "unsupported cipher", []string{"pkcs8", "-topk8", "-v2", "camellia-256-cbc"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			plain, cert, key := filepath.Join(dir, "plain.key"), filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
			smallKey(t, plain)
			selfSigned(t, plain, cert, authorityOf()...)
			openssl(t, append(tt.convert, "-passout", "pass:"+tt.passphrase, "-in", plain, "-out", key)...)
			command := "openssl pkey -in " + key + " -out " + key + ".plain"
			refused(t, mitm.Config{Directory: dir}, tt.says, command)
			hides(t, mitm.Config{Directory: dir}, plain, key)

			openssl(t, append(strings.Fields(command)[1:], "-passin", "pass:"+tt.passphrase)...)
			if err := os.Rename(key+".plain", key); err != nil {
				t.Fatal(err)
			}
			mustShake(t, open(t, mitm.Config{Directory: dir}), "quay.io", &tls.Config{})
		})
	}
}

// A wrong passphrase leaves something that looks like padding once in 256 times.
func TestWrongPassphraseIsAlwaysSaidToBeOne(t *testing.T) {
	t.Parallel()
	block, _ := pem.Decode(newKey(t, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"))
	for range 2000 {
		//lint:ignore SA1019 What is tested.
		protected, err := x509.EncryptPEMBlock(rand.Reader, "EC PRIVATE KEY", block.Bytes, []byte(rand.Text()), x509.PEMCipherDES)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mitm.ParseKey("ca.key", pem.EncodeToMemory(protected)); err == nil || !strings.Contains(err.Error(), "passphrase other than") {
			t.Fatalf("error %v, want it to be the passphrase", err)
		}
	}
}

// hides checks that neither error nor log has anything of the keys in these files.
func hides(t *testing.T, cfg mitm.Config, keys ...string) {
	t.Helper()
	log := &lines{}
	cfg.Log = log.logger()
	_, err := mitm.Open(cfg)
	said := fmt.Sprint(err, log)
	for _, path := range keys {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") && line != "" && strings.Contains(said, line) {
				t.Errorf("%q has a line of %s", said, path)
			}
		}
	}
}

func TestWhatIsNoKey(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, says string }{
		"nothing":            {"", "holds no private key"},
		"no PEM":             {"hunter2", "holds no private key"},
		"a certificate":      {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no private key"},
		"OpenSSH's form":     {"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==\n-----END OPENSSH PRIVATE KEY-----\n", `"OPENSSH PRIVATE KEY" is a form that is not supported`},
		"a DSA key":          {string(dsaKey(t)), "signs no certificates"},
		"a key agreement's":  {string(newKey(t, "genpkey", "-algorithm", "X25519")), "signs no certificates"},
		"cut":                {"-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----\n", "key is damaged"},
		"cut, PBES2":         {"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIFLTBXBgkqhkiG\n-----END ENCRYPTED PRIVATE KEY-----\n", "key is damaged"},
		"a scheme of no one": {"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: ROT13,00\n\nMIIE\n-----END RSA PRIVATE KEY-----\n", "cannot be decrypted"},
		"more work than is done": {altered(t, func(der []byte) []byte {
			return bytes.Replace(der, []byte{2, 2, 0x08, 0x00}, []byte{2, 2, 0x7f, 0xff}, 1) // a control: this much is done
		}), "passphrase other than"},
		"years of work": {altered(t, func(der []byte) []byte {
			// As many bytes, taken from the salt: SEQUENCE { OCTET STRING (8), INTEGER (2) }.
			i := bytes.Index(der, []byte{2, 2, 0x08, 0x00})
			der[i-9] = 3
			return append(append(bytes.Clone(der[:i-5]), 2, 7, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), der[i+4:]...)
		}), "too much work"},
		"a cipher that the IV does not fit": {altered(t, func(der []byte) []byte {
			// SEQUENCE { OBJECT des-ede3-cbc, OCTET STRING (8) }, the string split in two.
			i := bytes.Index(der, []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 7, 4, 8})
			der[i+9], der[i+14], der[i+15] = 4, 4, 2
			return der
		}), "key is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := mitm.ParseKey("/ca/ca.key", []byte(tt.text))
			if err == nil || !strings.HasPrefix(err.Error(), "/ca/ca.key: ") || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %q", err, tt.says)
			}
		})
	}
}

// altered is a key of OpenSSL 3 with its DER changed.
func altered(t *testing.T, change func(der []byte) []byte) string {
	t.Helper()
	block, _ := pem.Decode(newKey(t, "genrsa", "-des3", "-passout", "pass:foobar", "2048"))
	block.Bytes = change(block.Bytes)
	return string(pem.EncodeToMemory(block))
}

func dsaKey(t *testing.T) []byte {
	t.Helper()
	parameters := filepath.Join(t.TempDir(), "parameters")
	openssl(t, "dsaparam", "-out", parameters, "1024")
	return newKey(t, "gendsa", parameters)
}

// newKey is what makeKey writes.
func newKey(t testing.TB, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	makeKey(t, path, args...)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// FuzzKey feeds the forms of keys, damaged: neither panics nor takes long.
func FuzzKey(f *testing.F) {
	types := []string{"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"}
	for _, command := range keyForms() {
		for data := newKey(f, command...); ; {
			block, rest := pem.Decode(data)
			if block == nil {
				break
			}
			data = rest
			f.Add(uint8(max(0, slices.Index(types, block.Type))), block.Headers["DEK-Info"], block.Bytes)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, info string, der []byte) {
		block := &pem.Block{Type: types[int(kind)%len(types)], Bytes: der}
		if info != "" {
			block.Headers = map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": info}
		}
		for _, data := range [][]byte{pem.EncodeToMemory(block), der} {
			key, err := mitm.ParseKey("ca.key", data)
			if err == nil && key.Public() == nil {
				t.Error("a key without its public half")
			}
			if err != nil && !strings.HasPrefix(err.Error(), "ca.key: ") {
				t.Errorf("error %q does not name the file", err)
			}
		}
	})
}

// FuzzChain feeds damaged files of certificates.
func FuzzChain(f *testing.F) {
	cert := filepath.Join(f.TempDir(), "ca.crt")
	key := filepath.Join(f.TempDir(), "ca.key")
	curveKey(f, key)
	selfSigned(f, key, cert, authorityOf()...)
	data, err := os.ReadFile(cert)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(append(bytes.Clone(data), data...))
	f.Fuzz(func(t *testing.T, data []byte) {
		chain, err := mitm.ParseChain("ca.crt", data)
		if (err == nil) != (len(chain) > 0) {
			t.Errorf("%d certificates and error %v", len(chain), err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "ca.crt: ") {
			t.Errorf("error %q does not name the file", err)
		}
	})
}

// The authority that docs/install.md has people make for a cluster.
func TestAuthorityOfTheManual(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^openssl req (?:.*\\\n)*.*$`).Find(page)
	if line == nil {
		t.Fatal("docs/install.md has no \"openssl req\"")
	}
	dir := t.TempDir()
	shell := exec.CommandContext(t.Context(), "sh", "-c", string(line))
	shell.Dir = dir
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	a := open(t, mitm.Config{CertFile: filepath.Join(dir, "ca.crt"), KeyFile: filepath.Join(dir, "ca.key")})
	printed := openssl(t, "x509", "-in", filepath.Join(dir, "ca.crt"), "-noout", "-fingerprint", "-sha256")
	if !strings.Contains(printed, a.Fingerprint()) {
		t.Errorf("fingerprint %s, openssl says %s", a.Fingerprint(), printed)
	}
}
