package app

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/mitm"
	"container-registry-proxy/internal/oci"
)

// ownCheck reports whether host:port is one of our own listeners; it is package dial's.
type ownCheck func(ctx context.Context, hostport string) bool

// serverTLS is what clients get who speak TLS to the proxy itself: the operator's certificate, or one that the authority
// signs for the name they ask for. It has to be a name of ours: for any other we would pose as a stranger.
func serverTLS(current func() *config.Config, authority *mitm.Authority, own ownCheck) (*tls.Config, error) {
	cfg := current()
	if cfg.TLSCertFile != "" {
		pair, err := tls.LoadX509KeyPair(cfg.TLSCertFile, cfg.TLSKeyFile)
		if err != nil {
			return nil, fmt.Errorf("TLS_CRT_FILE=%s, TLS_KEY_FILE=%s: %w", cfg.TLSCertFile, cfg.TLSKeyFile, err)
		}
		served := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
		return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return asksForCertificates(served, current()), nil
		}}, nil
	}
	names := append([]string{"localhost"}, cfg.TLSNames...)
	if host, err := os.Hostname(); err == nil {
		names = append(names, strings.ToLower(host))
	}
	clients, err := url.Parse(cfg.SetupAddress)
	if err != nil {
		return nil, fmt.Errorf("SETUP_ADDRESS=%s: %w", cfg.SetupAddress, err)
	}
	names = append(names, clients.Hostname())
	// A client that calls us by an address sends no name; behind a balancer or a container's port it is not that of the
	// connection.
	byAddress := ""
	if _, err := netip.ParseAddr(clients.Hostname()); err == nil && clients.Scheme == "https" {
		byAddress = clients.Hostname()
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		local, port, err := net.SplitHostPort(hello.Conn.LocalAddr().String())
		if err != nil {
			return nil, err
		}
		name := oci.CanonicalHost(hello.ServerName)
		if name == "" {
			name = cmp.Or(byAddress, local)
		}
		if name != local && !slices.Contains(names, name) && !own(hello.Context(), net.JoinHostPort(name, port)) {
			return nil, fmt.Errorf("%q is not one of the proxy's names: TLS_NAMES may add it", name)
		}
		served := authority.TLSConfig(name).Clone()
		served.NextProtos = []string{"http/1.1"}
		// As the authority's own configurations do, which crypto/tls does not ask again from here: a ticket of TLS 1.2
		// would let whoever gets hold of the authority's key read what was recorded before.
		served.SessionTicketsDisabled = !slices.Contains(hello.SupportedVersions, tls.VersionTLS13)
		return asksForCertificates(served, current()), nil
	}}, nil
}

// asksForCertificates has clients present certificates, if the configuration says whose. One without is let in, as far as
// TLS goes: it may have a password, or want our own pages alone.
func asksForCertificates(served *tls.Config, cfg *config.Config) *tls.Config {
	if len(cfg.ClientCA) == 0 {
		return served
	}
	served = served.Clone()
	served.ClientAuth, served.ClientCAs = tls.VerifyClientCertIfGiven, x509.NewCertPool()
	served.ClientCAs.AppendCertsFromPEM(cfg.ClientCA) // it was checked
	return served
}
