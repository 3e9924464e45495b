package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/fill"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream"
)

// loopCheck bounds the question whether a parent proxy is ourselves.
const loopCheck = 5 * time.Second

// towards says how registries are asked: all of them, and those that have entries of their own.
type towards struct {
	named        func(host string) bool // whether the operator names a host at this moment
	cfg          *config.Config
	destinations dial.Config // of what is asked directly
	own          ownCheck
	certificate  []byte // of our authority, as /ca.crt has it
	log          *slog.Logger
	metrics      prometheus.Registerer
}

// asking is the configuration of the client towards registries, but for its logins.
func (w towards) asking() (upstream.Config, error) {
	cfg := w.cfg
	trusted, err := roots(cfg.UpstreamCAFile)
	if err != nil {
		return upstream.Config{}, fmt.Errorf("UPSTREAM_CA_FILE: %w", err)
	}
	hosts, err := w.hosts()
	if err != nil {
		return upstream.Config{}, err
	}
	label := w.label()
	return upstream.Config{
		Dialer: w.dialer(0), Hosts: hosts, Parent: w.parents(), Limits: w.limits,
		Named: w.named, Pairs: cfg.TokenServices,
		TLS:         &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12},
		Insecure:    func(host string) bool { return !cfg.VerifyTLS && w.named(host) },
		ReadTimeout: cfg.Timeouts.ProxyRead, SendTimeout: cfg.Timeouts.ProxySend,
		ForceHTTP11: cfg.ForceHTTP11,
		Registries:  func(r oci.Registry) string { return label(string(r)) },
		Log:         w.log, Registerer: w.metrics,
	}, nil
}

// dialer opens sockets to registries. Those that stand in for others are the operator's word too.
func (w towards) dialer(connect time.Duration) *dial.Dialer {
	named := map[string]bool{}
	for _, u := range w.cfg.Upstreams {
		for _, other := range u.Fallbacks {
			named[hostOf(other.Authority())] = true
		}
	}
	destinations := w.destinations
	owned := destinations.Named
	destinations.Named = func(host string) bool { return named[host] || owned(host) }
	if connect == 0 {
		connect = w.cfg.Timeouts.ProxyConnect
	}
	return dial.New(within(destinations, connect))
}

// hosts are the entries of single registries.
func (w towards) hosts() (map[string]upstream.Host, error) {
	hosts := map[string]upstream.Host{}
	for _, u := range w.cfg.Upstreams {
		host := upstream.Host{
			Insecure: u.Insecure, Plain: u.PlainHTTP, Direct: u.Parent.None, ReadTimeout: u.ReadTimeout, Replaceable: len(u.Fallbacks) > 0,
		}
		var err error
		if u.CAFile != "" {
			host.Roots, err = roots(w.cfg.UpstreamCAFile, u.CAFile)
		}
		if err == nil && u.ClientCertificate != "" {
			host.Certificate, err = w.clientCertificate(u.ClientCertificate, u.ClientKey)
		}
		if err != nil {
			return nil, fmt.Errorf("registries, %s: %w", u.Registry, err)
		}
		if u.ConnectTimeout > 0 {
			host.Dialer = w.dialer(u.ConnectTimeout)
		}
		host.Parent = w.parent(u.Parent, u.ConnectTimeout)
		hosts[u.Registry.Authority()] = host
	}
	return hosts, nil
}

// clientCertificate returns what shows a client certificate: the one that its files hold now, or held last where they cannot
// be read any more.
func (w towards) clientCertificate(certFile, keyFile string) (func() (*tls.Certificate, error), error) {
	last, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("client_certificate %s, client_key %s: %w", certFile, keyFile, err)
	}
	var mu sync.Mutex
	return func() (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if pair, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil {
			last = pair
		}
		shown := last
		return &shown, nil
	}, nil
}

// parent is a proxy to go through, or nil. Its host is the operator's word, for this use alone.
func (w towards) parent(p config.Parent, connect time.Duration) *upstream.Parent {
	if p.URL == "" {
		return nil
	}
	u, err := url.Parse(p.URL)
	if err != nil {
		panic(err) // package config has made it
	}
	if user, password, ok := strings.Cut(p.Login.Reveal(), ":"); ok {
		u.User = url.UserPassword(user, password)
	}
	if connect == 0 {
		connect = w.cfg.Timeouts.ProxyConnect
	}
	destinations := w.destinations
	destinations.Named = func(host string) bool { return host == oci.CanonicalHost(u.Hostname()) }
	return &upstream.Parent{URL: u, Dialer: dial.New(within(destinations, connect))}
}

// parents chooses the parent for what has none of its own. One that is this proxy itself is no parent: it is what clients
// of this machine are told to use.
func (w towards) parents() func(u *url.URL) *upstream.Parent {
	type made struct {
		*upstream.Parent
		loops func() bool
	}
	parents := map[string]made{}
	for _, p := range []config.Parent{w.cfg.Parents.HTTP, w.cfg.Parents.HTTPS} {
		if parent := w.parent(p, 0); parent != nil {
			parents[p.URL] = made{parent, sync.OnceValue(func() bool { return w.loops(parent) })}
		}
	}
	if len(parents) == 0 {
		return nil
	}
	return func(u *url.URL) *upstream.Parent {
		parent, found := parents[w.cfg.Parents.For(u).URL]
		if !found || parent.loops() {
			return nil
		}
		return parent.Parent
	}
}

// loops reports whether a parent is this proxy itself, whose own addresses are known once it listens. A container may be
// reached at one that it does not know, so the parent is asked for its authority too.
func (w towards) loops(parent *upstream.Parent) bool {
	ctx, cancel := context.WithTimeout(context.Background(), loopCheck)
	defer cancel()
	if !w.own(ctx, parent.URL.Host) && !w.echoes(ctx, parent) {
		return false
	}
	w.log.Warn("HTTP_PROXY or HTTPS_PROXY names this proxy itself: registries are asked directly", "proxy", parent.URL.Host)
	return true
}

// echoes reports whether a parent gives out our own authority's certificate.
func (w towards) echoes(ctx context.Context, parent *upstream.Parent) bool {
	if parent.URL.Scheme != "http" {
		return false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+parent.URL.Host+"/ca.crt", nil)
	if err != nil {
		return false
	}
	transport := &http.Transport{DialContext: parent.Dialer.DialContext, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, int64(len(w.certificate)+1))) // what there is of it is compared
	return bytes.Equal(body, w.certificate)
}

// limits bounds what a host is asked.
func (w towards) limits(authority string) upstream.Limits {
	l := upstream.Limits{Concurrent: w.cfg.UpstreamConcurrency, PerSecond: w.cfg.UpstreamRate}
	for _, u := range w.cfg.Upstreams {
		if u.Registry.Authority() != authority {
			continue
		}
		if u.Concurrency > 0 {
			l.Concurrent = u.Concurrency
		}
		if u.Rate > 0 {
			l.PerSecond = u.Rate
		}
	}
	return l
}

// fallbacks are the registries that stand in for one.
func (w towards) fallbacks(reg oci.Registry) []oci.Registry {
	u, _ := w.cfg.Upstream(reg)
	return u.Fallbacks
}

// connections is over how many a blob of a registry may be fetched, 0 where that is as for all.
func (w towards) connections(reg oci.Registry) int {
	u, _ := w.cfg.Upstream(reg)
	return u.ParallelDownloads
}

// fills says how blobs are downloaded. What large ones take beyond their first connection is half of what a host grants
// us at once, so that small ones and manifests need not wait for them.
func (w towards) fills() fill.Config {
	c := fill.Config{
		Connections: w.cfg.ParallelDownloads, SpareConnections: max(w.cfg.UpstreamConcurrency/2, 1), FinishShare: w.cfg.FinishShare,
	}
	if w.cfg.FinishShare > 1 {
		c.FinishLeft = -1 // not even the last bytes
	}
	return c
}

// label keeps the names of registries of the configuration, for metrics, and calls all others "other".
func (w towards) label() func(string) string {
	names := w.cfg.Registries.Exact()
	for _, u := range w.cfg.Upstreams {
		for _, other := range u.Fallbacks {
			names = append(names, string(other))
		}
	}
	return closedSet(names)
}

// unprotected says which registries are asked over what can be read and changed on its way.
func unprotected(upstreams []config.Upstream) prometheus.Collector {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "upstream_unprotected",
		Help: "1 for each registry that the YAML file has asked without verified TLS, by how: insecure or plain_http.",
	}, []string{"registry", "how"})
	for _, u := range upstreams {
		switch {
		case u.PlainHTTP:
			gauge.WithLabelValues(string(u.Registry), "plain_http").Set(1)
		case u.Insecure:
			gauge.WithLabelValues(string(u.Registry), "insecure").Set(1)
		}
	}
	return gauge
}

// roots are the system's root certificates and those of the files, or nil where no file is named.
func roots(files ...string) (*x509.CertPool, error) {
	var pool *x509.CertPool
	for _, file := range files {
		if file == "" {
			continue
		}
		if pool == nil {
			var err error
			if pool, err = x509.SystemCertPool(); err != nil {
				return nil, fmt.Errorf("system's root certificates: %w", err)
			}
		}
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate: want -----BEGIN CERTIFICATE----- blocks", file)
		}
	}
	return pool, nil
}

// hostOf is an authority without its port.
func hostOf(authority string) string {
	return oci.CanonicalHost((&url.URL{Host: authority}).Hostname())
}
