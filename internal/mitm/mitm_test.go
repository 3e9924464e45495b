package mitm_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/mitm"
)

const day = 24 * time.Hour

// open opens an authority, which must succeed.
func open(t testing.TB, cfg mitm.Config) *mitm.Authority {
	t.Helper()
	a, err := mitm.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// refused opens an authority, which must fail and say all of this.
func refused(t *testing.T, cfg mitm.Config, says ...string) {
	t.Helper()
	_, err := mitm.Open(cfg)
	if err == nil {
		t.Fatalf("opened, want an error with %q", says)
	}
	for _, want := range says {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want %q in it", err, want)
		}
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *lines) warnings() int { return strings.Count(l.String(), "level=WARN") }

// shake makes a handshake as a client that trusts nothing but the authority's certificate, and reads a byte, so that
// the client has got its ticket. It returns what the client saw.
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
		_ = far.Close()
		served <- err
	}()
	conn := tls.Client(near, client)
	_, err := conn.Read(make([]byte, 1))
	state := conn.ConnectionState()
	_ = near.Close()
	return state, errors.Join(err, <-served)
}

// mustShake is shake that must succeed.
func mustShake(t testing.TB, a *mitm.Authority, host string, client *tls.Config) tls.ConnectionState {
	t.Helper()
	state, err := shake(a, host, client)
	if err != nil {
		t.Fatalf("handshake with %s: %v", host, err)
	}
	return state
}

// metric is the value of one that has no labels.
func metric(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// snapshot is what is in a directory: path → mode, time of change and bytes.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		var data []byte
		if info.Mode().IsRegular() {
			if data, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		found[path] = fmt.Sprint(info.Mode(), info.ModTime().UnixNano(), string(data))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func certificate(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("no PEM: %q", data)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestMadeOnceThenLoaded(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data", "ca")
	first := open(t, mitm.Config{Directory: dir})
	made := snapshot(t, dir)
	for path, want := range map[string]fs.FileMode{"": 0o700 | fs.ModeDir, "ca.key": 0o600, "ca.crt": 0o644} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode() != want {
			t.Errorf("mode of %q: %v (%v), want %v", path, info.Mode(), err, want)
		}
	}
	if len(made) != 3 {
		t.Errorf("made %d entries, want the directory, ca.crt and ca.key: %v", len(made), made)
	}
	second := open(t, mitm.Config{Directory: dir})
	if first.Fingerprint() != second.Fingerprint() {
		t.Errorf("fingerprint %s, then %s: want one authority", first.Fingerprint(), second.Fingerprint())
	}
	if diff := cmp.Diff(made, snapshot(t, dir)); diff != "" {
		t.Errorf("the second start changed the directory: %s", diff)
	}
	mustShake(t, second, "registry-1.docker.io", &tls.Config{})

	cert := certificate(t, second.CertificatePEM())
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if cn := cert.Subject.CommonName; !strings.HasPrefix(cn, "container-registry-proxy CA "+host[:min(len(host), 20)]) || len(cn) > 64 {
		t.Errorf("common name %q, want what it is and the host name %q, in 64 bytes", cn, host)
	}
	if left := time.Until(cert.NotAfter); left < 9*365*day || cert.NotAfter.Year() >= 2038 {
		t.Errorf("valid until %v: want years, and an end that clocks of 32 bits reach", cert.NotAfter)
	}
}

func TestFingerprintAndPEMAreWhatOpensslSays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, mitm.Config{Directory: dir})
	printed := openssl(t, "x509", "-in", filepath.Join(dir, "ca.crt"), "-noout", "-fingerprint", "-sha256")
	if _, want, _ := strings.Cut(strings.TrimSpace(printed), "="); a.Fingerprint() != want {
		t.Errorf("fingerprint %s, openssl says %s", a.Fingerprint(), want)
	}
	onDisk, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil || string(a.CertificatePEM()) != string(onDisk) {
		t.Errorf("certificate %s, want that on disk, %s (%v)", a.CertificatePEM(), onDisk, err)
	}
}

func TestExistingDirectoryKeepsItsMode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	open(t, mitm.Config{Directory: dir})
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v (%v), want it untouched", info.Mode(), err)
	}
}

// A crash between the two files leaves the key alone.
func TestKeyAloneGetsACertificate(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]func(testing.TB, string){"own": curveKey, "original's": originalKey} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, log := t.TempDir(), &lines{}
			path := filepath.Join(dir, "ca.key")
			key(t, path)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			a := open(t, mitm.Config{Directory: dir, Log: log.logger()})
			mustShake(t, a, "quay.io", &tls.Config{})
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("the key changed (%v)", err)
			}
			if !strings.Contains(log.String(), "a key and no certificate") {
				t.Errorf("log %q, want a warning", log)
			}
			if again := open(t, mitm.Config{Directory: dir}); again.Fingerprint() != a.Fingerprint() {
				t.Error("the next start has another authority")
			}
		})
	}
}

func TestNothingIsReplaced(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, dir string)
		says  string
	}{
		"certificate without its key": {func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "ca.key")) }, "put the key back"},
		"empty certificate":           {func(t *testing.T, dir string) { write(t, filepath.Join(dir, "ca.crt"), "", 0o644) }, "ca.crt: holds no certificate"},
		"empty key":                   {func(t *testing.T, dir string) { write(t, filepath.Join(dir, "ca.key"), "", 0o600) }, "ca.key: holds no private key"},
		"damaged certificate": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "ca.crt"), "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n", 0o644)
		}, "ca.crt: certificate 1: "},
		"dangling link": {func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, "ca.key"))
			if err := os.Symlink("elsewhere", filepath.Join(dir, "ca.key")); err != nil {
				t.Fatal(err)
			}
		}, "ca.key: no such file"},
		"key of another": {func(t *testing.T, dir string) { smallKey(t, filepath.Join(dir, "ca.key")) }, "does not belong to it"},
		"enormous file": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "ca.crt"), strings.Repeat("x", 2<<20), 0o644)
		}, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			open(t, mitm.Config{Directory: dir})
			tt.spoil(t, dir)
			before := snapshot(t, dir)
			refused(t, mitm.Config{Directory: dir}, "certificate authority: ", dir, tt.says)
			if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
				t.Errorf("the directory changed: %s", diff)
			}
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// Replicas that share a volume start at one moment.
func TestConcurrentStartsMakeOneAuthority(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "ca")
	fingerprints := make([]string, 16)
	var wg sync.WaitGroup
	for i := range fingerprints {
		wg.Go(func() {
			a, err := mitm.Open(mitm.Config{Directory: dir})
			if err != nil {
				t.Error(err)
				return
			}
			fingerprints[i] = a.Fingerprint()
		})
	}
	wg.Wait()
	for _, f := range fingerprints {
		if f != fingerprints[0] {
			t.Errorf("fingerprints differ: %v", fingerprints)
			break
		}
	}
}

func TestDirectoryThatCannotBeMade(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "", 0o600)
	refused(t, mitm.Config{Directory: file}, file)
	refused(t, mitm.Config{Directory: filepath.Join(file, "ca")}, file)
}

func TestReadableKeyIsWarnedAbout(t *testing.T) {
	t.Parallel()
	dir, log := t.TempDir(), &lines{}
	open(t, mitm.Config{Directory: dir, Log: log.logger()})
	if log.warnings() != 0 {
		t.Errorf("warnings at the first start: %s", log)
	}
	key := filepath.Join(dir, "ca.key")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	open(t, mitm.Config{Directory: dir, Log: log.logger()})
	if log.warnings() != 1 || !strings.Contains(log.String(), "path="+key) {
		t.Errorf("log %s, want one warning that names %s", log, key)
	}
}

func TestExpiredAndNotYetValid(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		open(t, mitm.Config{Directory: dir}) // in the year 2000
		time.Sleep(3649 * day)
		open(t, mitm.Config{Directory: dir})
		time.Sleep(2 * day)
		refused(t, mitm.Config{Directory: dir}, filepath.Join(dir, "ca.crt"), "expired on 2009-12-29", "move "+filepath.Join(dir, "ca.crt"), "/ca.crt")
	})
	dir = original(t, curveKey)
	synctest.Test(t, func(t *testing.T) {
		refused(t, mitm.Config{Directory: dir}, filepath.Join(dir, "ca.crt"), "clock says 2000-01-01")
	})
}

func TestRunWarnsDailyInTheLastMonth(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		log, reg := &lines{}, prometheus.NewRegistry()
		a := open(t, mitm.Config{Directory: dir, Log: log.logger(), Registerer: reg})
		end := certificate(t, a.CertificatePEM()).NotAfter
		if got := metric(t, reg, "ca_expiry_timestamp_seconds"); got != float64(end.Unix()) {
			t.Errorf("ca_expiry_timestamp_seconds = %v, want %d", got, end.Unix())
		}
		run := func() (stop func()) {
			ctx, cancel := context.WithCancelCause(t.Context())
			reason, ended := errors.New("drained"), make(chan error)
			go func() { ended <- a.Run(ctx) }()
			synctest.Wait()
			return func() {
				cancel(reason)
				if err := <-ended; !errors.Is(err, reason) {
					t.Errorf("Run returned %v, want %v", err, reason)
				}
			}
		}
		stop := run()
		time.Sleep(time.Until(end.Add(-30*day - time.Hour)))
		if n := log.warnings(); n != 0 {
			t.Errorf("%d warnings a month before the end: %s", n, log)
		}
		time.Sleep(3 * day)
		if n := log.warnings(); n != 3 {
			t.Errorf("%d warnings in three days, want 3: %s", n, log)
		}
		if !strings.Contains(log.String(), "days_left=28") {
			t.Errorf("log %s, want the days that are left", log)
		}
		stop()
		stop = run()
		if n := log.warnings(); n != 4 {
			t.Errorf("%d warnings after another start, want one at once", n-3)
		}
		stop()
	})
}
