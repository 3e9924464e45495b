// Package config turns environment variables and a YAML file into a [Config], or into one error that names every
// problem. Its invariant: a Config returned by [Load] is complete and valid; nobody below has to check a value or know
// a default. It opens no socket and creates nothing on disk.
package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"container-registry-proxy/internal/client"
	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/freshness"
	"container-registry-proxy/internal/oci"
)

// Config is everything that can be set. The environment variable of a field is named in its comment; in the YAML file
// it has the same name in lower case. docs/configuration.md lists all of them with their defaults.
type Config struct {
	// Listen is where clients connect to (LISTEN, ":3128").
	Listen string

	// AdminListen is where the operator finds metrics and readiness (ADMIN_LISTEN, "127.0.0.1:3129"). Who reaches it
	// sees which registries are in use, but no credential.
	AdminListen string

	// CacheDirectory holds the cached bytes (CACHE_DIRECTORY). Losing it costs time, nothing else. Unset, it is the
	// nginx originals' directory where that exists, else a directory of the user's own.
	CacheDirectory string

	// CADirectory holds the certificate authority that clients trust (CA_DIRECTORY). Losing it means setting every
	// client up again; who reads it can impersonate every host to them. Unset, it is /ca where that exists, else a
	// directory of the user's own.
	CADirectory string

	// CACertFile and CAKeyFile are an authority of the operator's own, PEM, the chain included (CA_CRT_FILE and
	// CA_KEY_FILE). Both are empty, or neither is. Empty means the one in CADirectory, which is made if need be.
	CACertFile string
	CAKeyFile  string

	// TLSCertFile and TLSKeyFile are the certificate that clients get who speak TLS to the proxy itself, PEM, the chain
	// included (TLS_CRT_FILE and TLS_KEY_FILE). Both are empty, or neither is. Empty means one that the authority signs,
	// for a name of TLSNames or one that leads to this machine.
	TLSCertFile string
	TLSKeyFile  string

	// TLSNames are names of the proxy, beside those that resolve to this machine (TLS_NAMES, none).
	TLSNames []string

	// SetupAddress is how clients reach the proxy, http:// or https:// and host or host:port, as the set-up scripts have it
	// (SETUP_ADDRESS). Empty means as a client did that asked for its script.
	SetupAddress string

	// DefaultRegistry is the registry that a request to the proxy as a mirror means which names none (DEFAULT_REGISTRY,
	// docker.io).
	DefaultRegistry oci.Registry

	// MirrorAll lets requests to the proxy as a mirror name any registry, not only those of Registries
	// (MIRROR_ALL_REGISTRIES, false).
	MirrorAll bool

	// UpstreamCAFile holds PEM certificates that are trusted beside the system's when registries are asked
	// (UPSTREAM_CA_FILE). Empty means the system's alone.
	UpstreamCAFile string

	// Registries are the hosts that are intercepted (REGISTRIES): those listed, Docker Hub's, and those that
	// Credentials name.
	Registries HostSet

	// Upstreams says how single registries are asked (entries of registries in the YAML file). Each is one of Registries.
	Upstreams []Upstream

	// Parents are the proxies that registries are asked through (HTTP_PROXY, HTTPS_PROXY, NO_PROXY; none).
	Parents Parents

	// ParallelDownloads is over how many connections a large blob may be fetched from a registry that is slow on each
	// (PARALLEL_DOWNLOADS, 8). 1 means one.
	ParallelDownloads int

	// UpstreamConcurrency is how many requests to one host may be in progress, to the end of their bodies
	// (UPSTREAM_CONCURRENCY, 64). The others wait.
	UpstreamConcurrency int

	// UpstreamRate is how many requests to one host may begin in a second, in the long run (UPSTREAM_RATE). Zero, the
	// default, means any number.
	UpstreamRate float64

	// FinishShare is the share of a blob that must be there for its download to go on once the last client has left
	// (ABANDONED_DOWNLOADS): 0, the default, means that all are finished, more than 1 that none is. What is stopped is kept,
	// and taken up by the next client.
	FinishShare float64

	// Credentials are what registries and token services are shown (AUTH_REGISTRIES, AUTH_CONFIG_FILE, and credentials in
	// the YAML file), the first of two alike before the second. What they open is open to every
	// client of the proxy: that is what they are for.
	Credentials []Credential

	// TokenServices names hosts that a registry may have its tokens issued by, beside those on the same domain
	// (token_services, in the YAML file only). Such a host gets to see the registry's credential.
	TokenServices map[oci.Registry][]string

	// CacheMaxSize bounds the cached bytes (CACHE_MAX_SIZE, 32 GiB). It is more than zero.
	CacheMaxSize int64

	// CacheMinFree is the free space to leave to others on the cache's file system (CACHE_MIN_FREE, 1 GiB). Zero means
	// none.
	CacheMinFree int64

	// CacheInactive is how long a blob is kept that nobody asks for (CACHE_INACTIVE_TIME or CACHE_INACTIVE, 60 days).
	// It is more than zero.
	CacheInactive time.Duration

	// ManifestCache says how long tags are fresh (ENABLE_MANIFEST_CACHE, MANIFEST_CACHE_…, ALLOW_PCRE, and tags and pins in
	// the YAML file). Off, every tag that no rule matches is revalidated each time. Its patterns compile.
	ManifestCache freshness.Config

	// Warm are images that are pulled on schedule (warm, in the YAML file only).
	Warm []WarmList

	// Prefetch has the layers of an image fetched as soon as a client asks for its manifest (PREFETCH_LAYERS, false).
	Prefetch bool

	// RateLimitReserve is the share of a registry's rate limit, 0 to 1, below which nothing is asked that no client waits
	// for (RATE_LIMIT_RESERVE, 20%).
	RateLimitReserve float64

	// GiveUp is how long a registry that hangs is waited for where a cached answer is at hand (UPSTREAM_GIVE_UP, 3s). It
	// is more than zero.
	GiveUp time.Duration

	// AllowPush lets clients push, with their own Authorization and nothing else (ALLOW_PUSH, false).
	AllowPush bool

	// AllowOwnAuth lets a client's own Authorization go before the central credentials (ALLOW_OWN_AUTH, false).
	AllowOwnAuth bool

	// AllowPushWithOwnAuth lets clients push that bring an Authorization (ALLOW_PUSH_WITH_OWN_AUTH, false).
	AllowPushWithOwnAuth bool

	// Clients says who may use the proxy (CLIENT_NETWORKS, CLIENT_USERS_FILE, CLIENT_CA_FILE, and clients in the YAML
	// file). The zero value lets everybody use all of it.
	Clients client.Config

	// ClientCA has the certificates that sign those of clients (CLIENT_CA_FILE), PEM; empty means that none are asked for.
	ClientCA []byte

	// PushCentral are the credentials that are lent to pushes which bring none (push: central). It is empty unless the
	// operator says so.
	PushCentral []Credential

	// RequestBuffering has the whole body of a push received before it is passed on (PROXY_REQUEST_BUFFERING, true).
	RequestBuffering bool

	// VerifyTLS has the certificates of upstream checked (VERIFY_SSL, true). False exempts the hosts that Named holds
	// for, and nobody else; their credentials can then be stolen by whoever is in between.
	VerifyTLS bool

	// DisableIPv6 has IPv4 alone dialled (DISABLE_IPV6, false).
	DisableIPv6 bool

	// ForceHTTP11 keeps HTTP/2 from being spoken upstream (FORCE_UPSTREAM_HTTP_1_1, false).
	ForceHTTP11 bool

	// HTTP2 offers HTTP/2 to clients on intercepted connections (HTTP2, false). It costs about twice the CPU.
	HTTP2 bool

	// Timeouts bound the waits of single steps.
	Timeouts Timeouts

	// AllowedNetworks may be dialled although addresses of their kind are refused: loopback, link-local, metadata
	// services and the like (ALLOWED_NETWORKS, none). Every client of the proxy then reaches them.
	AllowedNetworks []netip.Prefix

	// RefusePrivate refuses private addresses too, but for hosts that Named holds for (REFUSE_PRIVATE, false).
	RefusePrivate bool

	// TunnelPorts are the ports that clients may reach on hosts that are not intercepted, as [dial.ParsePortSet] reads
	// them (TUNNEL_PORTS, "443 80 1024-65535").
	TunnelPorts string

	// LogLevel is the least level that is logged (LOG_LEVEL, info). DEBUG=true and DEBUG_NGINX=true mean debug.
	LogLevel slog.Level

	// LogFormat is "json" or "text" (LOG_FORMAT, json).
	LogFormat string

	// RunAs is who the process becomes, once it has read what only root may read and before it listens, if it is started
	// as root (RUN_AS, nobody). Zero means that it stays who it is.
	RunAs User

	texts map[string]string // what each setting was given, by its name in the environment

	// Notices is what must be said at start, a sentence each: nothing in there is wrong, all of it may surprise.
	Notices []string
}

// User is a user and a group of the system, by number: there may be no file that has names for them.
type User struct{ UID, GID int }

// String spells the user as RUN_AS does.
func (u User) String() string { return fmt.Sprintf("%d:%d", u.UID, u.GID) }

// Credential says where the login of one registry or token service is kept. Its host is never a wildcard.
type Credential = credential.Entry

// Timeouts bound the time between two reads or two writes, never the whole of a transfer. All but KeepAlive are more
// than zero.
type Timeouts struct {
	Send          time.Duration // to a client, between two writes (SEND_TIMEOUT, 60s)
	ClientBody    time.Duration // from a client, between two reads of a body (CLIENT_BODY_TIMEOUT, 60s)
	ClientHeader  time.Duration // from a client, for the whole of a request's header (CLIENT_HEADER_TIMEOUT, 60s)
	KeepAlive     time.Duration // for a client's next request; zero closes after each (KEEPALIVE_TIMEOUT, 300s)
	ProxyRead     time.Duration // from upstream, between two reads (PROXY_READ_TIMEOUT, 60s)
	ProxyConnect  time.Duration // to upstream, for one connect (PROXY_CONNECT_TIMEOUT, 60s)
	ProxySend     time.Duration // to upstream, between two writes (PROXY_SEND_TIMEOUT, 60s)
	TunnelRead    time.Duration // from either end of a tunnel, between two reads (PROXY_CONNECT_READ_TIMEOUT, 60s)
	TunnelConnect time.Duration // to the far end of a tunnel, for one connect (PROXY_CONNECT_CONNECT_TIMEOUT, 60s)
	TunnelSend    time.Duration // to either end of a tunnel, between two writes (PROXY_CONNECT_SEND_TIMEOUT, 60s)
}

// Named reports whether host, without a port, is named in REGISTRIES or AUTH_REGISTRIES, by a wildcard too. Docker
// Hub's hosts are intercepted always, but named only where the operator wrote one of them.
func (c *Config) Named(host string) bool { return c.Registries.Named(host) }

// Owned is Named without wildcards under which strangers may have names.
func (c *Config) Owned(host string) bool { return c.Registries.Owned(host) }
