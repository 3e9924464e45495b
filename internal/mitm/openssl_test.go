package mitm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// openssl runs the command that made the keys of real installations, and returns what it printed.
func openssl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := tryOpenssl(t, args...)
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func tryOpenssl(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// extensions writes an openssl configuration with one section of extensions, named "x", and returns its path.
func extensions(t testing.TB, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "openssl.cnf")
	write(t, path, "[req]\ndistinguished_name = dn\n[dn]\n[x]\n"+strings.Join(lines, "\n")+"\n", 0o600)
	return path
}

// authorityOf are the extensions that the nginx originals give their authority.
func authorityOf(more ...string) []string {
	return append([]string{
		"basicConstraints = critical,CA:TRUE",
		"keyUsage = critical, digitalSignature, cRLSign, keyCertSign",
		"subjectKeyIdentifier = hash",
	}, more...)
}

// selfSigned issues the certificate of a key for 1300 days, as the nginx originals do.
func selfSigned(t testing.TB, key, cert string, ext ...string) {
	t.Helper()
	openssl(t, "req", "-new", "-x509", "-days", "1300", "-sha256", "-key", key, "-out", cert, "-passin", "pass:foobar",
		"-subj", "/C=NL/ST=Noord Holland/L=Amsterdam/O=ME/OU=IT/CN=DockerMirrorBox CA Root proxy 2024.05.06 07:08",
		"-config", extensions(t, ext...), "-extensions", "x")
}

// signed issues the certificate of a key in the name of another authority.
func signed(t testing.TB, key, cert, subject, byKey, byCert string, ext ...string) {
	t.Helper()
	request := filepath.Join(t.TempDir(), "request")
	openssl(t, "req", "-new", "-key", key, "-out", request, "-subj", subject, "-passin", "pass:foobar", "-config", extensions(t), "-reqexts", "x")
	openssl(t, "x509", "-req", "-days", "1300", "-in", request, "-CA", byCert, "-CAkey", byKey, "-passin", "pass:foobar", "-CAcreateserial",
		"-out", cert, "-extfile", extensions(t, ext...), "-extensions", "x")
}

// keys are made once: RSA takes a while.
var keys struct {
	sync.Mutex
	made map[string][]byte
}

// makeKey writes the key that an openssl command line makes; "-out" and the path are added to it. One command line makes
// one key.
func makeKey(t testing.TB, path string, args ...string) {
	t.Helper()
	keys.Lock()
	defer keys.Unlock()
	name := strings.Join(args, " ")
	data, ok := keys.made[name]
	if !ok {
		// The options come before the number of bits.
		openssl(t, append([]string{args[0], "-out", path}, args[1:]...)...)
		var err error
		if data, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		if keys.made == nil {
			keys.made = map[string][]byte{}
		}
		keys.made[name] = data
	}
	write(t, path, string(data), 0o600)
}

// The keys of the nginx originals: OpenSSL 3 writes PKCS#8, and what OpenSSL 1.1 wrote is its "traditional" form.
func originalKey(t testing.TB, path string) {
	t.Helper()
	makeKey(t, path, "genrsa", "-des3", "-passout", "pass:foobar", "4096")
}

func olderOriginalKey(t testing.TB, path string) {
	t.Helper()
	makeKey(t, path, "genrsa", "-traditional", "-des3", "-passout", "pass:foobar", "4096")
}

func smallKey(t testing.TB, path string) {
	t.Helper()
	makeKey(t, path, "genrsa", "2048")
}

func curveKey(t testing.TB, path string) {
	t.Helper()
	makeKey(t, path, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
}

// original lays out a /ca volume as the nginx originals leave it.
func original(t testing.TB, key func(testing.TB, string)) (dir string) {
	t.Helper()
	dir = t.TempDir()
	key(t, filepath.Join(dir, "ca.key"))
	selfSigned(t, filepath.Join(dir, "ca.key"), filepath.Join(dir, "ca.crt"), authorityOf()...)
	write(t, filepath.Join(dir, "ca.srl"), "01\n", 0o644)
	if err := os.Mkdir(filepath.Join(dir, "certs"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "certs", "web.key"), "left over\n", 0o644)
	return dir
}

func write(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
