package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
)

// setting is one environment variable and its YAML field.
type setting struct {
	env string

	// fallback is the default, spelt as an operator would; it goes through parse like any other value. Empty means that
	// the field keeps its zero value, or that load finds the default out.
	fallback string

	// parse puts the value into its field. Its error says what is wrong with the value and shows a right one, without
	// naming the setting.
	parse func(c *Config, value string) error

	// list has a YAML sequence taken for its elements with spaces between.
	list bool

	// keepsEmpty has a variable that is set to nothing count as such. Every other one counts as unset then.
	keepsEmpty bool
}

// field is the setting's name in the YAML file.
func (s setting) field() string { return strings.ToLower(s.env) }

// settings are all that can be set by one value. AUTH_REGISTRIES, its delimiters and CONFIG_FILE are not among them:
// their reading is load's.
func settings() []setting {
	return slices.Concat(switches(), times(), towardsUpstream(), []setting{
		{env: "LISTEN", fallback: ":3128", parse: func(c *Config, v string) (err error) {
			c.Listen, err = parseListen(v, ":3128")
			return err
		}},
		{env: "ADMIN_LISTEN", fallback: "127.0.0.1:3129", parse: func(c *Config, v string) (err error) {
			c.AdminListen, err = parseListen(v, "127.0.0.1:3129")
			return err
		}},
		{env: "CACHE_DIRECTORY", parse: directory(func(c *Config) *string { return &c.CacheDirectory })},
		{env: "CA_DIRECTORY", parse: directory(func(c *Config) *string { return &c.CADirectory })},
		{env: "CA_CRT_FILE", parse: text(func(c *Config) *string { return &c.CACertFile })},
		{env: "CA_KEY_FILE", parse: text(func(c *Config) *string { return &c.CAKeyFile })},
		{env: "TLS_CRT_FILE", parse: text(func(c *Config) *string { return &c.TLSCertFile })},
		{env: "TLS_KEY_FILE", parse: text(func(c *Config) *string { return &c.TLSKeyFile })},
		{env: "TLS_NAMES", list: true, parse: parseNames},
		{env: "SETUP_ADDRESS", parse: func(c *Config, v string) (err error) {
			c.SetupAddress, err = parseSetupAddress(v)
			return err
		}},
		{env: "DEFAULT_REGISTRY", fallback: string(oci.DockerHub), parse: func(c *Config, v string) (err error) {
			if c.DefaultRegistry, err = oci.ParseRegistry(v); err != nil {
				return explainHost(v)
			}
			return nil
		}},
		{env: "UPSTREAM_CA_FILE", parse: text(func(c *Config) *string { return &c.UpstreamCAFile })},
		{env: "REGISTRIES", fallback: defaultRegistries, list: true, keepsEmpty: true, parse: parseRegistries},
		{env: "CACHE_MAX_SIZE", fallback: "32g", parse: func(c *Config, v string) (err error) {
			if c.CacheMaxSize, err = ParseSize(v); err == nil && c.CacheMaxSize == 0 {
				return errors.New("0 leaves no room: want more than that, such as 32g")
			}
			return err
		}},
		{env: "CACHE_MIN_FREE", fallback: "1g", parse: func(c *Config, v string) (err error) {
			c.CacheMinFree, err = ParseSize(v)
			return err
		}},
		{env: "MANIFEST_CACHE_PRIMARY_REGEX", fallback: `(stable|nightly|production|test)`, keepsEmpty: true, parse: text(func(c *Config) *string { return &c.ManifestCache.PrimaryRegex })},
		{env: "MANIFEST_CACHE_SECONDARY_REGEX", fallback: `(.*)(\d|\.)+(.*)(\d|\.)+(.*)(\d|\.)+`, keepsEmpty: true, parse: text(func(c *Config) *string { return &c.ManifestCache.SecondaryRegex })},
		{env: "RATE_LIMIT_RESERVE", fallback: "20%", parse: func(c *Config, v string) (err error) {
			c.RateLimitReserve, err = parseShare(v)
			return err
		}},
		{env: "ALLOWED_NETWORKS", list: true, parse: func(c *Config, v string) (err error) {
			c.AllowedNetworks, err = parseNetworks(v)
			return err
		}},
		{env: "CLIENT_NETWORKS", list: true, parse: func(c *Config, v string) (err error) {
			c.Clients.Networks, err = parseNetworks(v)
			return err
		}},
		{env: envClientUsers, parse: func(*Config, string) error { return nil }}, // load reads the two files
		{env: envClientCA, parse: func(*Config, string) error { return nil }},
		{env: "TUNNEL_PORTS", fallback: dial.DefaultTunnelPorts, list: true, parse: func(c *Config, v string) error {
			_, err := dial.ParsePortSet(v)
			c.TunnelPorts = v
			return err
		}},
		{env: "RUN_AS", parse: func(c *Config, v string) (err error) {
			c.RunAs, err = parseUser(v)
			return err
		}},
		{env: "LOG_LEVEL", fallback: "info", parse: func(c *Config, v string) (err error) {
			c.LogLevel, err = parseLevel(v)
			return err
		}},
		{env: "LOG_FORMAT", fallback: "json", parse: func(c *Config, v string) error {
			if c.LogFormat = strings.ToLower(v); c.LogFormat != "json" && c.LogFormat != "text" {
				return fmt.Errorf("%s is no format: want json or text", show(v))
			}
			return nil
		}},
	})
}

// towardsUpstream are the settings of how registries are asked that the YAML file may have another value of for each.
func towardsUpstream() []setting {
	return []setting{
		{env: "PARALLEL_DOWNLOADS", fallback: "8", parse: func(c *Config, v string) (err error) {
			c.ParallelDownloads, err = parseCount(v, maxParallel, "8")
			return err
		}},
		{env: "UPSTREAM_CONCURRENCY", fallback: "64", parse: func(c *Config, v string) (err error) {
			c.UpstreamConcurrency, err = parseCount(v, math.MaxInt32, "64")
			return err
		}},
		{env: "UPSTREAM_RATE", parse: func(c *Config, v string) (err error) {
			c.UpstreamRate, err = parseRate(v)
			return err
		}},
		{env: "ABANDONED_DOWNLOADS", fallback: "finish", parse: func(c *Config, v string) (err error) {
			c.FinishShare, err = parseFinish(v)
			return err
		}},
		{env: "HTTP_PROXY", parse: func(c *Config, v string) (err error) {
			c.Parents.HTTP, err = parseParent(v)
			return err
		}},
		{env: "HTTPS_PROXY", parse: func(c *Config, v string) (err error) {
			c.Parents.HTTPS, err = parseParent(v)
			return err
		}},
		{env: "NO_PROXY", list: true, parse: func(c *Config, v string) (err error) {
			c.Parents.except, err = parseExceptions(v)
			return err
		}},
	}
}

// switches are the settings that are true or false.
func switches() []setting {
	var list []setting
	for _, s := range []struct {
		env, fallback string
		field         func(*Config) *bool
	}{
		{"ENABLE_MANIFEST_CACHE", "false", func(c *Config) *bool { return &c.ManifestCache.Enabled }},
		{"PREFETCH_LAYERS", "false", func(c *Config) *bool { return &c.Prefetch }},
		{"ALLOW_PCRE", "false", func(c *Config) *bool { return &c.ManifestCache.AllowPCRE }},
		{"ALLOW_PUSH", "false", func(c *Config) *bool { return &c.AllowPush }},
		{"ALLOW_OWN_AUTH", "false", func(c *Config) *bool { return &c.AllowOwnAuth }},
		{"ALLOW_PUSH_WITH_OWN_AUTH", "false", func(c *Config) *bool { return &c.AllowPushWithOwnAuth }},
		{"PROXY_REQUEST_BUFFERING", "true", func(c *Config) *bool { return &c.RequestBuffering }},
		{"VERIFY_SSL", "true", func(c *Config) *bool { return &c.VerifyTLS }},
		{"DISABLE_IPV6", "false", func(c *Config) *bool { return &c.DisableIPv6 }},
		{"FORCE_UPSTREAM_HTTP_1_1", "false", func(c *Config) *bool { return &c.ForceHTTP11 }},
		{"HTTP2", "false", func(c *Config) *bool { return &c.HTTP2 }},
		{"MIRROR_ALL_REGISTRIES", "false", func(c *Config) *bool { return &c.MirrorAll }},
		{"REFUSE_PRIVATE", "false", func(c *Config) *bool { return &c.RefusePrivate }},
		{envDebug, "false", nil}, // load turns these two into a level
		{envDebugNginx, "false", nil},
	} {
		list = append(list, setting{env: s.env, fallback: s.fallback, parse: func(c *Config, v string) error {
			on, err := parseBool(v)
			if s.field != nil {
				*s.field(c) = on
			}
			return err
		}})
	}
	return list
}

// times are the settings that are a time.
func times() []setting {
	var list []setting
	for _, s := range []struct {
		env, fallback string
		zero          bool // whether zero has a meaning
		field         func(*Config) *time.Duration
	}{
		{envInactive, "", false, func(*Config) *time.Duration { return new(time.Duration) }}, // load decides between the two
		{envInactiveTime, "60d", false, func(c *Config) *time.Duration { return &c.CacheInactive }},
		{"MANIFEST_CACHE_PRIMARY_TIME", "10m", true, func(c *Config) *time.Duration { return &c.ManifestCache.PrimaryFor }},
		{"MANIFEST_CACHE_SECONDARY_TIME", "60d", true, func(c *Config) *time.Duration { return &c.ManifestCache.SecondaryFor }},
		{"MANIFEST_CACHE_DEFAULT_TIME", "1h", true, func(c *Config) *time.Duration { return &c.ManifestCache.DefaultFor }},
		{"UPSTREAM_GIVE_UP", "3s", false, func(c *Config) *time.Duration { return &c.GiveUp }},
		{"SEND_TIMEOUT", "60s", false, func(c *Config) *time.Duration { return &c.Timeouts.Send }},
		{"CLIENT_BODY_TIMEOUT", "60s", false, func(c *Config) *time.Duration { return &c.Timeouts.ClientBody }},
		{"CLIENT_HEADER_TIMEOUT", "60s", false, func(c *Config) *time.Duration { return &c.Timeouts.ClientHeader }},
		{"KEEPALIVE_TIMEOUT", "300s", true, func(c *Config) *time.Duration { return &c.Timeouts.KeepAlive }},
		{"PROXY_READ_TIMEOUT", "60s", false, func(c *Config) *time.Duration { return &c.Timeouts.ProxyRead }},
		{"PROXY_CONNECT_TIMEOUT", "60s", false, func(c *Config) *time.Duration { return &c.Timeouts.ProxyConnect }},
		{"PROXY_SEND_TIMEOUT", "60s", false, func(c *Config) *time.Duration { return &c.Timeouts.ProxySend }},
		{"PROXY_CONNECT_READ_TIMEOUT", "60s", false, func(c *Config) *time.Duration { return &c.Timeouts.TunnelRead }},
		{"PROXY_CONNECT_CONNECT_TIMEOUT", "60s", false, func(c *Config) *time.Duration { return &c.Timeouts.TunnelConnect }},
		{"PROXY_CONNECT_SEND_TIMEOUT", "60s", false, func(c *Config) *time.Duration { return &c.Timeouts.TunnelSend }},
	} {
		list = append(list, setting{env: s.env, fallback: s.fallback, parse: func(c *Config, v string) error {
			d, err := ParseTime(v)
			if err == nil && d == 0 && !s.zero {
				return fmt.Errorf("%s would end at once: want more than that, such as %s, or 10y for no end", show(v), cmp.Or(s.fallback, "60d"))
			}
			*s.field(c) = d
			return err
		}})
	}
	return list
}

// text returns a parse function that takes the value as it is.
func text(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		*field(c) = v
		return nil
	}
}

// directory returns a parse function that takes the path of a directory, which need not exist.
func directory(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		path := filepath.Clean(v)
		if path == "/" {
			return errors.New("/ is the root of the file system: want a directory of its own, such as /var/lib/container-registry-proxy")
		}
		*field(c) = path
		return nil
	}
}

// parseRegistries names every host of the list.
func parseRegistries(c *Config, v string) error {
	var errs []error
	for _, host := range strings.FieldsFunc(v, isSpace) {
		errs = append(errs, c.Registries.add(host))
	}
	return errors.Join(errs...)
}

// parseNames takes host names and addresses.
func parseNames(c *Config, v string) error {
	var errs []error
	for _, name := range strings.FieldsFunc(v, isSpace) {
		host, port, err := splitAuthority(name)
		if err != nil || port != "" {
			errs = append(errs, fmt.Errorf("%s: want the name or the address alone, such as proxy.example.com", show(name)))
			continue
		}
		c.TLSNames = append(c.TLSNames, host)
	}
	return errors.Join(errs...)
}

// parseSetupAddress takes the proxy's URL. Nothing in what it returns means anything to a shell.
func parseSetupAddress(v string) (string, error) {
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || strings.Trim(u.Path, "/") != "" || strings.ContainsAny(v, "?#") {
		return "", fmt.Errorf("%s: want http:// or https:// with a host and a port, such as https://proxy.example.com:3128", show(v))
	}
	host, port, err := splitAuthority(u.Host)
	if err != nil {
		return "", fmt.Errorf("%s: %s is no host[:port]: want one such as https://proxy.example.com:3128", show(v), show(u.Host))
	}
	return u.Scheme + "://" + hostPort{host, port}.String(), nil
}

// parseUser takes uid or uid:gid apart; the group of a user alone has its number.
func parseUser(v string) (User, error) {
	left, right, both := strings.Cut(v, ":")
	if !both {
		right = left
	}
	uid, err := strconv.ParseUint(left, 10, 31)
	gid, err2 := strconv.ParseUint(right, 10, 31)
	if err != nil || err2 != nil || uid == 0 {
		return User{}, fmt.Errorf("%s: want the numbers of a user other than root and of a group, such as 65532:65532", show(v))
	}
	return User{UID: int(uid), GID: int(gid)}, nil
}
