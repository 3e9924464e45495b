package peer

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"container-registry-proxy/bench/load"
)

// Ours is the proxy of this repository.
type Ours struct {
	*Process
	Intercept load.Target // CONNECT to the origin, which is a configured registry
	Tunnel    load.Target // CONNECT to the origin's plain listener, which is not
	Mirror    load.Target // plain HTTP, the registry named in the query
	Admin     string      // URL of the operator's listener, for profiles
	ca        string
}

// StartOurs starts a program with the settings that are the originals' defaults, and the manifest cache on.
func StartOurs(ctx context.Context, program, name, dir string, certs *Certificates, origin *Origin) (*Ours, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	listen, admin := net.JoinHostPort("127.0.0.1", ports[0]), net.JoinHostPort("127.0.0.1", ports[1])
	authority := filepath.Join(dir, name, "ca")
	o := &Ours{
		Intercept: load.Target{Addr: listen, Host: origin.Direct.Host, Connect: true},
		Tunnel:    load.Target{Addr: listen, Host: origin.Plain.Addr, Connect: true},
		Mirror:    load.Target{Addr: listen, Host: listen, Query: "?ns=" + url.QueryEscape(origin.Direct.Host)},
		Admin:     "http://" + admin, ca: filepath.Join(authority, "ca.crt"),
	}
	cache := filepath.Join(dir, name, "cache")
	o.Process, err = Start(ctx, Command{
		Name: name, Path: program, Args: []string{"serve"}, Dir: dir, Cache: cache,
		Env: []string{
			"LISTEN=" + listen, "ADMIN_LISTEN=" + admin, "CACHE_DIRECTORY=" + cache, "CA_DIRECTORY=" + authority,
			"REGISTRIES=" + origin.Direct.Host, "ALLOWED_NETWORKS=127.0.0.0/8", "DISABLE_IPV6=true", "UPSTREAM_CA_FILE=" + certs.Authority,
			"ENABLE_MANIFEST_CACHE=true", "CACHE_MAX_SIZE=8g", "CACHE_MIN_FREE=0",
		},
		Ready: answers(o.Admin + "/readyz"),
	})
	if err != nil {
		return o, err
	}
	pem, err := os.ReadFile(o.ca)
	if err != nil {
		return o, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return o, fmt.Errorf("%s: holds no certificate", o.ca)
	}
	o.Intercept.TLS = client(roots)
	return o, nil
}

// answers is a Ready that succeeds once a URL is answered with 200.
func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s", url, resp.Status)
		}
		return nil
	}
}
