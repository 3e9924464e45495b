package app

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"container-registry-proxy/internal/access"
	"container-registry-proxy/internal/accesslog"
	"container-registry-proxy/internal/admin"
	"container-registry-proxy/internal/cache"
	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/freshness"
	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/mitm"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/proxy"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/registry"
	"container-registry-proxy/internal/setup"
	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/via"
)

// parts is what runs.
type parts struct {
	store     *disk.Store
	cache     *cache.Cache
	trust     *access.Access
	logins    *credential.Logins
	upstream  *upstream.Client
	proxy     *proxy.Proxy
	admin     http.Handler
	authority *mitm.Authority
	own       *ownAddresses
	pins      *cache.Pins
	known     *metadata.Metadata
}

// wire builds the parts from the bottom up. It is long because it is straight: one line of thought, no decisions but
// which value goes where.
func (a *App) wire() (*parts, error) {
	cfg, log := a.cfg, a.log
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	prefixed := prometheus.WrapRegistererWithPrefix("container_registry_proxy_", metrics)
	prefixed.MustRegister(unverified(cfg.VerifyTLS), unprotected(cfg.Upstreams))
	p := &parts{own: &ownAddresses{}, pins: cache.NewPins()}

	authority, err := mitm.Open(mitm.Config{
		Directory: cfg.CADirectory, CertFile: cfg.CACertFile, KeyFile: cfg.CAKeyFile, HTTP2: cfg.HTTP2,
		Log: log.With("component", "mitm"), Registerer: prefixed,
	})
	if err != nil {
		if cfg.CACertFile == "" {
			err = fmt.Errorf("CA_DIRECTORY: %w", err)
		}
		return nil, explainPermission(err, cfg.CADirectory)
	}
	p.authority = authority
	ports, err := dial.ParsePortSet(cfg.TunnelPorts)
	if err != nil {
		return nil, fmt.Errorf("TUNNEL_PORTS: %w", err)
	}
	destinations := dial.Config{
		AllowedNetworks: cfg.AllowedNetworks, Named: a.owned, Own: p.own.list,
		DisableIPv6: cfg.DisableIPv6, RefusePrivate: cfg.RefusePrivate, TunnelPorts: ports, Resolver: a.resolver,
	}
	tunnels := dial.New(within(destinations, cfg.Timeouts.TunnelConnect))
	how := towards{
		cfg: cfg, named: a.named, destinations: destinations, own: tunnels.Own, certificate: authority.CertificatePEM(),
		log: log.With("component", "upstream"), metrics: prefixed,
	}
	asking, err := how.asking()
	if err != nil {
		return nil, err
	}
	// What only root may read has been read.
	if err := assume(cfg.RunAs, cfg.CacheDirectory); err != nil {
		return nil, err
	}
	if err := a.openStore(p, prefixed); err != nil {
		return nil, explainPermission(fmt.Errorf("CACHE_DIRECTORY: %w", err), cfg.CacheDirectory)
	}
	label := how.label()
	asking.RateLimits = ratelimit.New(ratelimit.Config{
		Reserve: cfg.RateLimitReserve, DB: p.store.DB(), Registries: func(r oci.Registry) string { return label(string(r)) },
		Log: log.With("component", "ratelimit"), Registerer: prefixed,
	})
	p.logins = credential.New(credential.Config{
		Entries: cfg.Credentials, Environ: os.Environ(), Log: log.With("component", "credential"), Registerer: prefixed,
	})
	asking.Logins, asking.Via = p.logins, via.New()
	client := upstream.New(asking)
	p.upstream = client
	rules, err := freshness.NewRules(cfg.ManifestCache)
	if err != nil {
		return nil, err
	}
	known := metadata.New(p.store.DB())
	p.known = known
	p.trust = access.New(access.Config{
		Registries: client, Metadata: known, HasCentral: client.Auth().HasCentralFor, Refused: client.Auth().Refused,
		OwnFirst: func() bool { return a.live.Load().rules.OwnFirst }, Realms: client.Auth().Realms, Hasher: hasher(cfg, log),
		Keeps: rules.KeepsMissing, GiveUp: cfg.GiveUp,
		Everyone: func(reg oci.Registry, repository string) bool { return a.live.Load().guard.Everyone(reg, repository) },
		Log:      log.With("component", "access"),
	})
	trust := p.trust
	p.cache = cache.New(cache.Config{
		Store: p.store, Metadata: known, Access: trust, Registries: client, Freshness: rules, Pins: p.pins, Prefetch: cfg.Prefetch, GiveUp: cfg.GiveUp,
		Fill: how.fills(), Connections: how.connections, Fallbacks: how.fallbacks,
		Log: log.With("component", "cache"), Registerer: prefixed,
	})
	toOurselves, err := serverTLS(func() *config.Config { return a.live.Load().cfg }, authority, tunnels.Own)
	if err != nil {
		return nil, err
	}
	records := accesslog.New(accesslog.Config{Log: log, Registerer: prefixed, Registries: label})
	p.proxy = proxy.New(proxy.Config{
		Via:       asking.Via,
		Intercept: func(authority string) (oci.Registry, bool) { return a.live.Load().cfg.Registries.Intercept(authority) },
		InterceptPlain: func(authority string) (oci.Registry, bool) {
			return a.live.Load().cfg.Registries.InterceptPlain(authority)
		},
		Registry: registry.New(registry.Config{
			Cache: p.cache, Upstream: client, HasCentral: client.Auth().HasCentralFor,
			Trust: trust, Authorization: client.Auth().Authorization, Rules: func() registry.Rules { return a.live.Load().rules },
			GiveUp: cfg.GiveUp, Log: log.With("component", "registry"),
		}),
		Local: setup.Handler(setup.Config{
			CertificatePEM: authority.CertificatePEM(), Address: cfg.SetupAddress, Registries: cfg.Registries.Mirrored(), Healthy: a.healthy,
		}),
		Authority: authority, Dialer: tunnels, Upstream: client.Transport(), ClientToken: client.Auth().ClientToken,
		Guard: func() proxy.Guard { return a.live.Load().guard }, Saw: trust.Saw,
		Mirror: func() (oci.Registry, bool) { return a.live.Load().cfg.DefaultRegistry, a.live.Load().cfg.MirrorAll }, ServerTLS: toOurselves,
		HTTP2: cfg.HTTP2, Timeouts: clientTimeouts(cfg.Timeouts),
		AccessLog: records, Log: log.With("component", "proxy"), Registerer: prefixed,
	})
	p.admin = admin.New(admin.Config{
		Gatherer: metrics, Ready: a.ready, Listen: cfg.AdminListen,
		Degraded: p.store.Degraded,
	})
	return p, nil
}

// openStore opens the cache directory and what is known of its content.
func (a *App) openStore(p *parts, metrics prometheus.Registerer) (err error) {
	p.store, err = disk.Open(disk.Config{
		Directory: a.cfg.CacheDirectory, MaxSize: a.cfg.CacheMaxSize, MinFree: a.cfg.CacheMinFree, Inactive: a.cfg.CacheInactive,
		Pinned: p.pins.Has, Log: a.log.With("component", "store"), Registerer: metrics,
	})
	if err != nil {
		return err
	}
	a.stops.add("store", func(context.Context) error { return p.store.Close() })
	return nil
}

// within is a dialer's configuration with a time-out for one connect.
func within(cfg dial.Config, connect time.Duration) dial.Config {
	cfg.Timeout = connect
	return cfg
}

// clientTimeouts are those that concern clients and tunnels.
func clientTimeouts(t config.Timeouts) proxy.Timeouts {
	return proxy.Timeouts{
		Send: t.Send, Body: t.ClientBody, Header: t.ClientHeader, KeepAlive: t.KeepAlive,
		TunnelRead: t.TunnelRead, TunnelSend: t.TunnelSend,
	}
}

// ownAddresses are the listeners' addresses, known once they listen.
type ownAddresses struct {
	addrs atomic.Pointer[[]netip.AddrPort]
}

func (o *ownAddresses) set(addrs ...net.Addr) {
	var list []netip.AddrPort
	for _, addr := range addrs {
		if tcp, ok := addr.(*net.TCPAddr); ok {
			list = append(list, tcp.AddrPort())
		}
	}
	o.addrs.Store(&list)
}

func (o *ownAddresses) list() []netip.AddrPort {
	if p := o.addrs.Load(); p != nil {
		return *p
	}
	return nil
}

// closedSet returns a function that keeps the names of the set and calls everything else "other": strangers' names
// never become labels.
func closedSet(names []string) func(string) string {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		if r, err := oci.ParseRegistry(name); err == nil {
			set[string(r)] = true
		}
	}
	return func(name string) string {
		if set[name] {
			return name
		}
		return "other"
	}
}
