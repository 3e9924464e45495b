package doctor_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/doctor"
	"container-registry-proxy/internal/mitm"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/proxy"
	"container-registry-proxy/internal/setup"
)

// patient is a machine on which everything is right, but for what a test breaks.
type patient struct {
	t         *testing.T
	cfg       doctor.Config
	root      string
	registry  http.HandlerFunc
	admin     string // what /metrics says
	healthy   error
	authority []byte // what /ca.crt says
}

const metrics = `# HELP container_registry_proxy_store_bytes x
container_registry_proxy_store_bytes 1.073741824e+09
container_registry_proxy_store_limit_bytes 3.4359738368e+10
container_registry_proxy_store_degraded 0
container_registry_proxy_rate_limit{registry="docker.io"} 100
container_registry_proxy_rate_limit_remaining{registry="docker.io"} 80
`

func newPatient(t *testing.T) *patient {
	t.Helper()
	p := &patient{t: t, root: t.TempDir(), admin: metrics}
	p.registry = func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Cache", "REVALIDATED") }
	dir := t.TempDir()
	authority, err := mitm.Open(mitm.Config{Directory: dir})
	if err != nil {
		t.Fatal(err)
	}
	p.authority = authority.CertificatePEM()
	front := proxy.New(proxy.Config{
		Intercept:      func(string) (oci.Registry, bool) { return oci.DockerHub, true },
		InterceptPlain: func(string) (oci.Registry, bool) { return "", false },
		Registry:       http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.registry(w, r) }),
		Local: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			setup.Handler(setup.Config{CertificatePEM: p.authority, Healthy: func() error { return p.healthy }}).ServeHTTP(w, r)
		}),
		Authority: authority, Dialer: nobody{},
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- front.Serve(l) }()
	t.Cleanup(func() {
		_ = front.Shutdown(context.Background())
		<-served
	})
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, p.admin) }))
	t.Cleanup(admin.Close)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	p.cfg = doctor.Config{
		Proxy: net.JoinHostPort("proxy.test", port), Admin: admin.Listener.Addr().String(), Root: p.root,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, strings.Replace(address, "proxy.test", "127.0.0.1", 1))
		},
		LookupHost: func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil },
	}
	p.write("etc/ssl/certs/ca-certificates.crt", string(p.authority))
	p.daemon("dockerd", "HTTPS_PROXY=http://"+p.cfg.Proxy+"/", "NO_PROXY=10.0.0.0/8,.cluster.local")
	return p
}

type nobody struct{}

func (nobody) DialTunnel(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody") }
func (nobody) Own(context.Context, string) bool                     { return false }

func (p *patient) write(name, content string) {
	p.t.Helper()
	path := filepath.Join(p.root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *patient) remove(name string) {
	p.t.Helper()
	if err := os.Remove(filepath.Join(p.root, name)); err != nil {
		p.t.Fatal(err)
	}
}

// daemon makes the only one that runs another one.
func (p *patient) daemon(name string, environ ...string) {
	p.t.Helper()
	p.process(4711, name, environ...)
}

func (p *patient) process(pid int, name string, environ ...string) {
	p.t.Helper()
	dir := fmt.Sprintf("proc/%d/", pid)
	p.write(dir+"comm", name+"\n")
	p.write(dir+"environ", strings.Join(environ, "\x00")+"\x00")
}

// expiring is an authority with this much time left.
func expiring(t *testing.T, left time.Duration) []byte {
	t.Helper()
	return issued(t, time.Now().Add(-10*365*24*time.Hour), time.Now().Add(left))
}

// issued is an authority that is valid for a time.
func issued(t *testing.T, from, until time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "old"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: from, NotAfter: until,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestNothingIsWrong(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	found := doctor.Examine(t.Context(), p.cfg)
	for _, f := range found {
		if f.State != doctor.Good {
			t.Errorf("%s is %s: %s", f.Check, f.State, f.Text)
		}
	}
	var out bytes.Buffer
	if !doctor.Print(&out, found) || strings.Count(out.String(), "\n") != len(found) {
		t.Errorf("printed as\n%s", out.String())
	}
}

// One thing is wrong, and one line says so.
func TestOneThingIsWrong(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		breaks func(p *patient)
		check  string
		state  doctor.State
		says   string
	}{
		{"the name does not resolve", func(p *patient) {
			p.cfg.LookupHost = func(context.Context, string) ([]string, error) { return nil, errors.New("no such host") }
		}, "dns", doctor.Bad, "proxy.test does not resolve"},
		{"the proxy has no port", func(p *patient) {
			p.cfg.Proxy = "proxy.test"
			p.daemon("dockerd", "HTTPS_PROXY=http://proxy.test/")
		}, "dns", doctor.Bad, "want host:port"},
		{"nothing listens", func(p *patient) {
			p.cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:1")
			}
			p.cfg.Admin = ""
		}, "port", doctor.Bad, "is the proxy running"},
		{"it is not well", func(p *patient) { p.healthy = errors.New("no") }, "port", doctor.Bad, "503"},
		{"the clock is wrong", func(p *patient) {
			p.cfg.Now = func() time.Time { return time.Now().Add(3 * time.Hour) }
		}, "clock", doctor.Bad, "NTP"},
		{"the authority has expired", func(p *patient) {
			p.authority = expiring(p.t, -time.Hour)
			p.write("etc/ssl/certs/ca-certificates.crt", string(p.authority))
		}, "certificate", doctor.Bad, "expired"},
		{"the authority expires soon", func(p *patient) {
			p.authority = expiring(p.t, 24*time.Hour)
			p.write("etc/ssl/certs/ca-certificates.crt", string(p.authority))
		}, "certificate", doctor.Warning, "expires"},
		{"the authority is not valid yet", func(p *patient) {
			p.authority = issued(p.t, time.Now().Add(48*time.Hour), time.Now().Add(96*time.Hour))
			p.write("etc/ssl/certs/ca-certificates.crt", string(p.authority))
		}, "certificate", doctor.Bad, "valid only from"},
		{"something else listens", func(p *patient) { p.authority = []byte("<html>") }, "certificate", doctor.Bad, "something else may listen"},
		{"the authority is not trusted", func(p *patient) {
			p.write("etc/ssl/certs/ca-certificates.crt", string(expiring(p.t, time.Hour)))
		}, "trust", doctor.Bad, "update-ca-certificates"},
		{"the authority is not trusted by Fedora or RHEL", func(p *patient) {
			p.remove("etc/ssl/certs/ca-certificates.crt")
			p.write("etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", string(expiring(p.t, time.Hour)))
		}, "trust", doctor.Bad, "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem does not have"},
		{"the authority is not trusted by SUSE", func(p *patient) {
			p.remove("etc/ssl/certs/ca-certificates.crt")
			p.write("var/lib/ca-certificates/ca-bundle.pem", string(expiring(p.t, time.Hour)))
		}, "trust", doctor.Bad, "/var/lib/ca-certificates/ca-bundle.pem does not have"},
		{"a daemon has roots of its own", func(p *patient) {
			p.write("etc/docker/roots.pem", string(expiring(p.t, time.Hour)))
			p.daemon("dockerd", "HTTPS_PROXY=http://"+p.cfg.Proxy+"/", "SSL_CERT_FILE=/etc/docker/roots.pem")
		}, "trust", doctor.Bad, "dockerd was started with SSL_CERT_FILE=/etc/docker/roots.pem, which does not have"},
		{"a daemon has roots that are gone", func(p *patient) {
			p.daemon("dockerd", "HTTPS_PROXY=http://"+p.cfg.Proxy+"/", "SSL_CERT_FILE=/etc/docker/roots.pem")
		}, "trust", doctor.Bad, "cannot be read"},
		{"the registry of another image is out of reach", func(p *patient) {
			p.cfg.Image = oci.Reference{Registry: "registry.test:5000", Repository: "app", Tag: "1"}
			p.registry = func(w http.ResponseWriter, r *http.Request) {
				if r.Host == "registry.test:5000" && r.URL.Path == "/v2/app/manifests/1" {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
			}
		}, "upstream", doctor.Bad, "registry.test:5000 cannot be used by the proxy"},
		{"the registry is out of reach", func(p *patient) {
			p.registry = func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = w.Write((&oci.Error{Code: oci.CodeUnavailable, Message: "registry docker.io: name does not resolve"}).Body())
			}
		}, "upstream", doctor.Bad, "name does not resolve"},
		{"the registry is out of reach and the image is cached", func(p *patient) {
			p.registry = func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Cache", "STALE") }
		}, "upstream", doctor.Bad, "from its cache"},
		{"the registry has had enough", func(p *patient) {
			p.registry = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }
		}, "upstream", doctor.Bad, "AUTH_REGISTRIES"},
		{"few pulls are left", func(p *patient) { p.admin = strings.Replace(metrics, "} 80", "} 5", 1) }, "rate limit", doctor.Warning, "5 %"},
		{"no pulls are left", func(p *patient) { p.admin = strings.Replace(metrics, "} 80", "} 0", 1) }, "rate limit", doctor.Bad, "docker.io"},
		{"the disk is full", func(p *patient) { p.admin = strings.Replace(metrics, "degraded 0", "degraded 1", 1) }, "disk", doctor.Bad, "keeps nothing new"},
		{"the daemon uses no proxy", func(p *patient) { p.daemon("dockerd", "PATH=/bin") }, "dockerd", doctor.Bad, "/setup/docker | sudo sh"},
		{"the daemon uses another proxy", func(p *patient) {
			p.daemon("containerd", "HTTPS_PROXY=http://user:secret@other.test:8080", "NO_PROXY=")
		}, "containerd", doctor.Bad, "other.test:8080"},
		{"CRI-O uses no proxy", func(p *patient) { p.daemon("crio", "PATH=/bin") }, "crio", doctor.Bad, "/setup/crio | sudo sh"},
		{"BuildKit uses no proxy", func(p *patient) { p.daemon("buildkitd", "PATH=/bin") }, "buildkitd", doctor.Bad, "/setup/buildkit | sudo sh"},
		{"one daemon of two uses no proxy", func(p *patient) { p.process(4712, "crio", "PATH=/bin") }, "crio", doctor.Bad, "/setup/crio | sudo sh"},
		{"containerd of a node that has dockerd too uses no proxy", func(p *patient) {
			p.process(4712, "containerd", "PATH=/bin")
			p.process(4713, "kubelet", "PATH=/bin")
		}, "containerd", doctor.Bad, "/setup/containerd | sudo sh"},
		{"containerd of dockerd uses no proxy, and does not pull", func(p *patient) { p.process(4712, "containerd", "PATH=/bin") }, "containerd", doctor.Warning, "dockerd pulls by itself"},
		{"NO_PROXY leads past it", func(p *patient) {
			p.daemon("dockerd", "HTTPS_PROXY=http://"+p.cfg.Proxy+"/", "NO_PROXY=localhost,.docker.io")
		}, "no_proxy", doctor.Bad, "registry-1.docker.io"},
		{"NO_PROXY leads past everything", func(p *patient) {
			p.daemon("dockerd", "HTTPS_PROXY=http://"+p.cfg.Proxy+"/", "NO_PROXY=*")
		}, "no_proxy", doctor.Bad, "registry-1.docker.io"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			tc.breaks(p)
			seen := false
			for _, f := range doctor.Examine(t.Context(), p.cfg) {
				red := f.State == doctor.Bad || f.State == doctor.Warning
				switch {
				case f.Check == tc.check && red:
					seen = true
					if f.State != tc.state || !strings.Contains(f.Text, tc.says) || strings.Contains(f.Text, "secret") {
						t.Errorf("%s is %s: %s; want %s with %q", f.Check, f.State, f.Text, tc.state, tc.says)
					}
				case red && tc.check != "certificate": // an authority that cannot be used cannot be used upstream either
					t.Errorf("%s turned red too: %s", f.Check, f.Text)
				}
			}
			if !seen {
				t.Errorf("%s did not turn red", tc.check)
			}
		})
	}
}

// A client of the mirror needs neither the authority nor HTTPS_PROXY.
func TestMirrorNeedsNoAuthority(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.write("etc/ssl/certs/ca-certificates.crt", string(expiring(t, time.Hour)))
	p.daemon("containerd", "PATH=/bin")
	p.write("etc/containerd/certs.d/_default/hosts.toml", `[host."http://`+p.cfg.Proxy+`"]`)
	for _, f := range doctor.Examine(t.Context(), p.cfg) {
		if f.State == doctor.Bad {
			t.Errorf("%s: %s", f.Check, f.Text)
		}
	}
}
