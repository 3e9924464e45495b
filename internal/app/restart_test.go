package app_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// partial is a blob of a registry that has stalled in the middle of it, with a client that waits for the rest.
type partial struct {
	reg     *registrytest.Registry
	digest  oci.Digest
	address string
}

const (
	partialSize = 12 << 20
	partialSent = 5 << 20
)

// newPartial has the registry at an address, not a name, which every process can resolve.
func newPartial(t *testing.T) partial {
	t.Helper()
	reg := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Body: registrytest.Body{StallAfter: partialSent}}})
	digest := reg.PutBlob("app", registrytest.Bytes(1, partialSize))
	return partial{reg, digest, fmt.Sprintf("https://%s/v2/app/blobs/%s", reg.HostMap()["registry.test"], digest)}
}

func (p partial) settings() []string {
	return []string{
		"REGISTRIES=" + p.reg.HostMap()["registry.test"].String(), "UPSTREAM_CA_FILE=" + p.reg.CAFile(), "PARALLEL_DOWNLOADS=1", "ABANDONED_DOWNLOADS=stop",
	}
}

// begin has a client read what comes before the stall, and returns its response.
func (p partial) begin(t *testing.T, client *http.Client) *http.Response {
	t.Helper()
	resp, err := client.Get(p.address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, partialSent-256<<10); err != nil {
		t.Fatal(err)
	}
	return resp
}

// wantTheRest starts a proxy where another was, and fails the test unless the next client costs the registry one request,
// for what the first proxy did not have, and the one after that none.
func (p partial) wantTheRest(t *testing.T, root string) {
	t.Helper()
	p.reg.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
	p.reg.Forget()
	h := plan{world: p.reg.World, root: root, environ: p.settings()}.start(t)
	a := h.ask("GET", p.address).expect(t, 200)
	if got := oci.FromBytes(a.body); got != p.digest {
		t.Errorf("got %s", got)
	}
	if a = h.ask("GET", p.address).expect(t, 200); a.outcome() != "HIT" {
		t.Errorf("the next client's outcome is %s, want HIT", a.outcome())
	}
	asked := p.reg.Find(func(r registrytest.Request) bool { return r.Method == "GET" && strings.Contains(r.Path, "/blobs/") })
	if len(asked) != 1 || !regexp.MustCompile(`^bytes=[1-9]`).MatchString(asked[0].Range()) || asked[0].Sent > partialSize-partialSent+2<<20 {
		t.Errorf("after the restart the registry was asked %+v, want one request for the rest alone", asked)
	}
}

func TestADownloadGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	p := newPartial(t)
	h := plan{world: p.reg.World, environ: p.settings()}.start(t)
	resp := p.begin(t, h.http)
	_ = resp.Body.Close()
	p.reg.AwaitFunc(1, func(r registrytest.Request) bool { return r.Done && strings.Contains(r.Path, "/blobs/") })
	if err := h.close(); err != nil {
		t.Fatal(err)
	}
	p.wantTheRest(t, h.root)
}

func TestADownloadGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	p := newPartial(t)
	root := t.TempDir()
	proxy := spawn(t, root, p.settings()...)
	addresses := regexp.MustCompile(`listens on (\S+) for clients, on (\S+) for the operator`).FindStringSubmatch(proxy.greeting)
	if addresses == nil {
		t.Fatalf("greeting %q", proxy.greeting)
	}
	authority := x509.NewCertPool()
	authority.AppendCertsFromPEM(direct(t, "GET", "http://"+addresses[1]+"/ca.crt").expect(t, 200).body)
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: addresses[1]}), TLSClientConfig: &tls.Config{RootCAs: authority}}
	resp := p.begin(t, &http.Client{Transport: transport, Timeout: patience})
	defer resp.Body.Close()
	eventually(t, "what is staged is safe from a crash", func() bool {
		metrics := direct(t, "GET", "http://"+addresses[2]+"/metrics").expect(t, 200).body
		return regexp.MustCompile(prefix + `store_checkpoints_total [1-9]`).Match(metrics)
	})
	if err := proxy.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = proxy.Wait()
	if files, err := filepath.Glob(filepath.Join(root, "cache", "staging", "*")); err != nil || len(files) != 1 {
		t.Errorf("staging holds %q, %v, want the one file", files, err)
	}
	p.wantTheRest(t, root)
}
