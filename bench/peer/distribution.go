package peer

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"container-registry-proxy/bench/load"
)

// Distribution is distribution's registry as a pull-through mirror.
type Distribution struct {
	*Process
	Target load.Target
}

const distributionConfig = `version: 0.1
log: {level: warn}
storage:
  filesystem: {rootdirectory: %q}
http:
  addr: 127.0.0.1:%s
  secret: bench
%sproxy:
  remoteurl: https://%s
  ttl: 720h
`

// StartDistribution starts distribution in front of the origin, with TLS or without.
func StartDistribution(ctx context.Context, tools Tools, dir string, certs *Certificates, origin *Origin, secure bool) (*Distribution, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	name, tls := "distribution-plain", ""
	d := &Distribution{Target: load.Target{Addr: net.JoinHostPort("127.0.0.1", port), Host: origin.Direct.Host}}
	if secure {
		name, tls = "distribution", fmt.Sprintf("  tls: {certificate: %q, key: %q}\n", certs.ECDSA, certs.ECDSAKey)
		d.Target.TLS = client(certs.Roots)
	}
	config := filepath.Join(dir, name+".yml")
	text := fmt.Sprintf(distributionConfig, filepath.Join(dir, name), port, tls, origin.Direct.Host)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	d.Process, err = Start(ctx, Command{
		Name: name, Path: tools.Registry, Args: []string{"serve", config}, Dir: dir, Cache: filepath.Join(dir, name),
		Env: []string{"SSL_CERT_FILE=" + certs.Authority, "OTEL_TRACES_EXPORTER=none"}, Ready: listens(d.Target.Addr),
	})
	return d, err
}
