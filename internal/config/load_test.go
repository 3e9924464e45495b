package config

import (
	"container-registry-proxy/internal/oci"

	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"container-registry-proxy/internal/freshness"
)

// machine is a file system to load from, its paths without the leading slash.
type machine fstest.MapFS

func (m machine) system() system {
	files := fstest.MapFS(m)
	in := func(path string) string { return strings.TrimPrefix(path, "/") }
	return system{
		stat:    func(path string) (fs.FileInfo, error) { return files.Stat(in(path)) },
		readDir: func(path string) ([]fs.DirEntry, error) { return files.ReadDir(in(path)) },
		readFile: func(path string) ([]byte, error) {
			f, err := files.Open(in(path))
			if err != nil {
				return nil, err
			}
			defer f.Close()
			return readBounded(f)
		},
	}
}

var (
	aFile      = &fstest.MapFile{Data: []byte("x")}
	aPEMFile   = &fstest.MapFile{Data: []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")}
	aDirectory = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
)

// loadAt loads with a home directory and the files of m. The file /etc/proxy.yaml is in use if it is there.
func loadAt(m machine, environ ...string) (*Config, error) {
	all := []string{"HOME=/srv/user"}
	if m["etc/proxy.yaml"] != nil {
		all = append(all, "CONFIG_FILE=/etc/proxy.yaml")
	}
	return load(append(all, environ...), m.system())
}

func mustLoad(t testing.TB, m machine, environ ...string) *Config {
	t.Helper()
	cfg, err := loadAt(m, environ...)
	if err != nil {
		t.Fatalf("Load(%q): %v", environ, err)
	}
	return cfg
}

func yamlFileOf(content string) machine {
	return machine{"etc/proxy.yaml": {Data: []byte(content)}}
}

// problems are the lines of an error of Load; an error of another type is a failure.
func problemsOf(t testing.TB, err error) []string {
	t.Helper()
	var all *Error
	if !errors.As(err, &all) {
		t.Fatalf("Load: %v, want an *Error", err)
	}
	for _, p := range all.Problems {
		if strings.ContainsAny(p, "\n\r") || p == "" {
			t.Errorf("problem %q is not one line", p)
		}
	}
	return all.Problems
}

func TestNothingSetIsTheOriginalsDefaults(t *testing.T) {
	t.Parallel()
	got := mustLoad(t, machine{})
	minute := 60 * time.Second
	want := &Config{
		Listen: ":3128", AdminListen: "127.0.0.1:3129",
		CacheDirectory: "/srv/user/.cache/container-registry-proxy",
		CADirectory:    "/srv/user/.local/share/container-registry-proxy/ca",
		CacheMaxSize:   32 << 30, CacheMinFree: 1 << 30, CacheInactive: 60 * 24 * time.Hour,
		RateLimitReserve: 0.2, GiveUp: 3 * time.Second,
		DefaultRegistry: oci.DockerHub, ParallelDownloads: 8, UpstreamConcurrency: 64,
		ManifestCache: freshness.Config{
			PrimaryRegex: `(stable|nightly|production|test)`, PrimaryFor: 10 * time.Minute,
			SecondaryRegex: `(.*)(\d|\.)+(.*)(\d|\.)+(.*)(\d|\.)+`, SecondaryFor: 60 * 24 * time.Hour,
			DefaultFor: time.Hour,
		},
		RequestBuffering: true, VerifyTLS: true,
		Timeouts: Timeouts{
			Send: minute, ClientBody: minute, ClientHeader: minute, KeepAlive: 300 * time.Second,
			ProxyRead: minute, ProxyConnect: minute, ProxySend: minute,
			TunnelRead: minute, TunnelConnect: minute, TunnelSend: minute,
		},
		TunnelPorts: "443 80 1024-65535", LogLevel: slog.LevelInfo, LogFormat: "json",
	}
	got.Registries, want.Registries = HostSet{}, HostSet{}
	got.texts = nil // as they were written
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(HostSet{}, Config{}), cmp.Comparer(sameParents)); diff != "" {
		t.Errorf("Load with nothing set (-want +got):\n%s", diff)
	}
}

func sameParents(a, b Parents) bool {
	return a.HTTP == b.HTTP && a.HTTPS == b.HTTPS && slices.Equal(a.except, b.except)
}

func TestEverySettingReachesItsField(t *testing.T) {
	t.Parallel()
	m := machine{"pem/ca.crt": aPEMFile, "pem/ca.key": aFile, "pem/extra.pem": aPEMFile}
	for _, tt := range []struct {
		name, value string
		got         func(*Config) any
		want        any
	}{
		{"LISTEN", "10.1.2.3:8080", func(c *Config) any { return c.Listen }, "10.1.2.3:8080"},
		{"LISTEN", "[::1]:0", func(c *Config) any { return c.Listen }, "[::1]:0"},
		{"ADMIN_LISTEN", "localhost:9000", func(c *Config) any { return c.AdminListen }, "localhost:9000"},
		{"CACHE_DIRECTORY", "/data/cache/", func(c *Config) any { return c.CacheDirectory }, "/data/cache"},
		{"CA_DIRECTORY", "/data/ca", func(c *Config) any { return c.CADirectory }, "/data/ca"},
		{"UPSTREAM_CA_FILE", "/pem/extra.pem", func(c *Config) any { return c.UpstreamCAFile }, "/pem/extra.pem"},
		{"CACHE_MAX_SIZE", "500m", func(c *Config) any { return c.CacheMaxSize }, int64(500 << 20)},
		{"CACHE_MAX_SIZE", " 32G ", func(c *Config) any { return c.CacheMaxSize }, int64(32 << 30)},
		{"CACHE_MAX_SIZE", "", func(c *Config) any { return c.CacheMaxSize }, int64(32 << 30)},
		{"CACHE_MIN_FREE", "0", func(c *Config) any { return c.CacheMinFree }, int64(0)},
		{"RATE_LIMIT_RESERVE", "35%", func(c *Config) any { return c.RateLimitReserve }, 0.35},
		{"RATE_LIMIT_RESERVE", "0", func(c *Config) any { return c.RateLimitReserve }, 0.0},
		{"UPSTREAM_GIVE_UP", "500ms", func(c *Config) any { return c.GiveUp }, 500 * time.Millisecond},
		{"CACHE_INACTIVE", "1w", func(c *Config) any { return c.CacheInactive }, 7 * 24 * time.Hour},
		{"CACHE_INACTIVE_TIME", "1d 12h", func(c *Config) any { return c.CacheInactive }, 36 * time.Hour},
		{"ENABLE_MANIFEST_CACHE", "true", func(c *Config) any { return c.ManifestCache.Enabled }, true},
		{"MANIFEST_CACHE_PRIMARY_REGEX", `v\d+$`, func(c *Config) any { return c.ManifestCache.PrimaryRegex }, `v\d+$`},
		{"MANIFEST_CACHE_PRIMARY_REGEX", "", func(c *Config) any { return c.ManifestCache.PrimaryRegex }, ""},
		{"MANIFEST_CACHE_PRIMARY_TIME", "0", func(c *Config) any { return c.ManifestCache.PrimaryFor }, time.Duration(0)},
		{"MANIFEST_CACHE_SECONDARY_REGEX", "sha-", func(c *Config) any { return c.ManifestCache.SecondaryRegex }, "sha-"},
		{"MANIFEST_CACHE_SECONDARY_TIME", "1y", func(c *Config) any { return c.ManifestCache.SecondaryFor }, 365 * 24 * time.Hour},
		{"MANIFEST_CACHE_DEFAULT_TIME", "90", func(c *Config) any { return c.ManifestCache.DefaultFor }, 90 * time.Second},
		{"ALLOW_PUSH", "true", func(c *Config) any { return c.AllowPush }, true},
		{"ALLOW_OWN_AUTH", "yes", func(c *Config) any { return c.AllowOwnAuth }, true},
		{"ALLOW_PUSH_WITH_OWN_AUTH", "1", func(c *Config) any { return c.AllowPushWithOwnAuth }, true},
		{"PROXY_REQUEST_BUFFERING", "false", func(c *Config) any { return c.RequestBuffering }, false},
		{"VERIFY_SSL", "FALSE", func(c *Config) any { return c.VerifyTLS }, false},
		{"VERIFY_SSL", "", func(c *Config) any { return c.VerifyTLS }, true},
		{"DISABLE_IPV6", "on", func(c *Config) any { return c.DisableIPv6 }, true},
		{"FORCE_UPSTREAM_HTTP_1_1", "true", func(c *Config) any { return c.ForceHTTP11 }, true},
		{"HTTP2", "true", func(c *Config) any { return c.HTTP2 }, true},
		{"SEND_TIMEOUT", "61s", func(c *Config) any { return c.Timeouts.Send }, 61 * time.Second},
		{"CLIENT_BODY_TIMEOUT", "62s", func(c *Config) any { return c.Timeouts.ClientBody }, 62 * time.Second},
		{"CLIENT_HEADER_TIMEOUT", "63s", func(c *Config) any { return c.Timeouts.ClientHeader }, 63 * time.Second},
		{"KEEPALIVE_TIMEOUT", "64s", func(c *Config) any { return c.Timeouts.KeepAlive }, 64 * time.Second},
		{"KEEPALIVE_TIMEOUT", "0", func(c *Config) any { return c.Timeouts.KeepAlive }, time.Duration(0)},
		{"PROXY_READ_TIMEOUT", "65s", func(c *Config) any { return c.Timeouts.ProxyRead }, 65 * time.Second},
		{"PROXY_CONNECT_TIMEOUT", "66s", func(c *Config) any { return c.Timeouts.ProxyConnect }, 66 * time.Second},
		{"PROXY_SEND_TIMEOUT", "67s", func(c *Config) any { return c.Timeouts.ProxySend }, 67 * time.Second},
		{"PROXY_CONNECT_READ_TIMEOUT", "68s", func(c *Config) any { return c.Timeouts.TunnelRead }, 68 * time.Second},
		{"PROXY_CONNECT_CONNECT_TIMEOUT", "69s", func(c *Config) any { return c.Timeouts.TunnelConnect }, 69 * time.Second},
		{"PROXY_CONNECT_SEND_TIMEOUT", "500ms", func(c *Config) any { return c.Timeouts.TunnelSend }, 500 * time.Millisecond},
		{"CLIENT_NETWORKS", "10.0.0.0/8", func(c *Config) any { return len(c.Clients.Networks) }, 1},
		{"ALLOWED_NETWORKS", "127.0.0.0/8, ::1", func(c *Config) any { return len(c.AllowedNetworks) }, 2},
		{"REFUSE_PRIVATE", "true", func(c *Config) any { return c.RefusePrivate }, true},
		{"TUNNEL_PORTS", "443,8000-8100", func(c *Config) any { return c.TunnelPorts }, "443,8000-8100"},
		{"RUN_AS", "65532", func(c *Config) any { return c.RunAs }, User{65532, 65532}},
		{"RUN_AS", "1000:100", func(c *Config) any { return c.RunAs }, User{1000, 100}},
		{"MIRROR_ALL_REGISTRIES", "true", func(c *Config) any { return c.MirrorAll }, true},
		{"DEFAULT_REGISTRY", "Quay.io", func(c *Config) any { return c.DefaultRegistry }, oci.Registry("quay.io")},
		{"PARALLEL_DOWNLOADS", "1", func(c *Config) any { return c.ParallelDownloads }, 1},
		{"UPSTREAM_CONCURRENCY", "5", func(c *Config) any { return c.UpstreamConcurrency }, 5},
		{"UPSTREAM_RATE", "0.5", func(c *Config) any { return c.UpstreamRate }, 0.5},
		{"ABANDONED_DOWNLOADS", "finish", func(c *Config) any { return c.FinishShare }, 0.0},
		{"ABANDONED_DOWNLOADS", "stop", func(c *Config) any { return c.FinishShare > 1 }, true},
		{"ABANDONED_DOWNLOADS", "75%", func(c *Config) any { return c.FinishShare }, 0.75},
		{"HTTP_PROXY", "http://parent.test:8080/", func(c *Config) any { return c.Parents.HTTP.URL }, "http://parent.test:8080"},
		{"HTTPS_PROXY", "parent.test", func(c *Config) any { return c.Parents.HTTPS.URL }, "http://parent.test:80"},
		{"HTTPS_PROXY", "http://user:p%40ss@parent.test:8080", func(c *Config) any { return c.Parents.HTTPS.Login.Reveal() }, "user:p@ss"},
		{"HTTPS_PROXY", "socks5h://[::1]", func(c *Config) any { return c.Parents.HTTPS.URL }, "socks5://[::1]:1080"},
		{"NO_PROXY", "localhost,.corp.test, 10.0.0.0/8", func(c *Config) any { return len(c.Parents.except) }, 3},
		{"TLS_NAMES", "proxy.test 192.0.2.1", func(c *Config) any { return len(c.TLSNames) }, 2},
		{"SETUP_ADDRESS", "HTTPS://Proxy.Test:3128/", func(c *Config) any { return c.SetupAddress }, "https://proxy.test:3128"},
		{"SETUP_ADDRESS", "http://[FD00::1]", func(c *Config) any { return c.SetupAddress }, "http://[fd00::1]"},
		{"LOG_LEVEL", "warn", func(c *Config) any { return c.LogLevel }, slog.LevelWarn},
		{"LOG_FORMAT", "text", func(c *Config) any { return c.LogFormat }, "text"},
		{"DEBUG", "true", func(c *Config) any { return c.LogLevel }, slog.LevelDebug},
		{"DEBUG_NGINX", "true", func(c *Config) any { return c.LogLevel }, slog.LevelDebug},
		{"DEBUG", "false", func(c *Config) any { return c.LogLevel }, slog.LevelInfo},
		{"REGISTRIES", "one.test two.test:5000", func(c *Config) any { return c.Registries.Match("two.test:5000") }, true},
		{"REGISTRIES", "", func(c *Config) any { return c.Registries.Match("quay.io:443") }, false},
	} {
		t.Run(tt.name+"="+tt.value, func(t *testing.T) {
			t.Parallel()
			if got := tt.got(mustLoad(t, m, tt.name+"="+tt.value)); got != tt.want {
				t.Errorf("%s=%q in the environment gives %v, want %v", tt.name, tt.value, got, tt.want)
			}
			if tt.value == "" {
				return
			}
			inFile := yamlFileOf(strings.ToLower(tt.name) + ": '" + tt.value + "'\n")
			inFile["pem/extra.pem"] = aPEMFile
			if got := tt.got(mustLoad(t, inFile)); got != tt.want {
				t.Errorf("%s: %q in the file gives %v, want %v", strings.ToLower(tt.name), tt.value, got, tt.want)
			}
		})
	}
}

func TestBadValuesAreNamedWithARightOne(t *testing.T) {
	t.Parallel()
	m := machine{"a/file": aFile, "a/pem": aPEMFile, "a/directory": aDirectory}
	for _, tt := range []struct{ name, value, wrong, right string }{
		{"LISTEN", "3128", "port alone", ":3128"},
		{"LISTEN", "localhost", "no address", ":3128"},
		{"LISTEN", ":70000", "0 to 65535", ":3128"},
		{"LISTEN", ":http", "no address", ":3128"},
		{"LISTEN", "http://x:1", "no address", ":3128"},
		{"LISTEN", "a b:1", "no address", ":3128"},
		{"ADMIN_LISTEN", ":3128", "LISTEN's address", "127.0.0.1:3129"},
		{"CACHE_DIRECTORY", "/", "root of the file system", "/var/lib/"},
		{"CACHE_DIRECTORY", "/a/file", "not a directory", "need not exist"},
		{"CA_DIRECTORY", "/a/file", "not a directory", "need not exist"},
		{"CA_CRT_FILE", "/a/pem", "CA_KEY_FILE", "/run/secrets/ca.key"},
		{"CA_KEY_FILE", "/a/file", "CA_CRT_FILE", "/run/secrets/ca.crt"},
		{"TLS_CRT_FILE", "/a/pem", "TLS_KEY_FILE", "/run/secrets/tls.key"},
		{"TLS_KEY_FILE", "/a/file", "TLS_CRT_FILE", "/run/secrets/tls.crt"},
		{"RUN_AS", "root", "root", "65532:65532"},
		{"RUN_AS", "0:0", "0:0", "65532:65532"},
		{"PARALLEL_DOWNLOADS", "0", "0: want a whole number from 1 to 16", "such as 8"},
		{"PARALLEL_DOWNLOADS", "many", "many: want a whole number", "such as 8"},
		{"UPSTREAM_CONCURRENCY", "-1", "-1: want a whole number from 1", "such as 64"},
		{"UPSTREAM_RATE", "0", "0: want how many requests", "such as 20 or 0.5"},
		{"UPSTREAM_RATE", "1e3", "1e3: want how many requests", "such as 20 or 0.5"},
		{"ABANDONED_DOWNLOADS", "0%", "0%: want finish, stop", "such as 50%"},
		{"ABANDONED_DOWNLOADS", "half", "half: want finish, stop", "such as 50%"},
		{"HTTP_PROXY", "ftp://parent.test", "ftp is no kind of proxy", "http://proxy.example.com:8080"},
		{"HTTPS_PROXY", "http://parent.test/path", "not the URL of a proxy", "http://proxy.example.com:8080"},
		{"HTTPS_PROXY", "http://canary@:1", "has no host", "http://proxy.example.com:8080"},
		{"NO_PROXY", "10.0.0.0/40", "10.0.0.0/40 is no network", "10.0.0.0/8"},
		{"NO_PROXY", "http://x", "http://x is no network", "10.0.0.0/8"},
		{"NO_PROXY", "a b_*", "b_*: want hosts, domains", "localhost,.example.com,10.0.0.0/8"},
		{"TLS_NAMES", "proxy.test:3128", "proxy.test:3128", "proxy.example.com"},
		{"SETUP_ADDRESS", "proxy.test:3128", "proxy.test:3128: want http:// or https://", "https://proxy.example.com:3128"},
		{"SETUP_ADDRESS", "https://proxy.test/setup", "https://proxy.test/setup: want", "https://proxy.example.com:3128"},
		{"SETUP_ADDRESS", "https://robot:canary@proxy.test", "want http:// or https://", "https://proxy.example.com:3128"},
		{"SETUP_ADDRESS", "http://proxy.test:port", "want http:// or https://", "https://proxy.example.com:3128"},
		{"SETUP_ADDRESS", "http://$(id)", "$(id) is no host[:port]", "https://proxy.example.com:3128"},
		{"DEFAULT_REGISTRY", "docker.io/library", "docker.io/library", "such as docker.io"},
		{"UPSTREAM_CA_FILE", "/a/file", "/a/file holds no certificate", "BEGIN CERTIFICATE"},
		{"UPSTREAM_CA_FILE", "/missing", "/missing: file does not exist", "PEM file"},
		{"UPSTREAM_CA_FILE", "/a/directory", "is a directory", "PEM file"},
		{"REGISTRIES", "quay.io https://ghcr.io/", "https://ghcr.io/", "such as ghcr.io"},
		{"REGISTRIES", "ghcr.io/org/app", "without a repository", "such as ghcr.io"},
		{"REGISTRIES", "quay.io,ghcr.io", "spaces between", "quay.io ghcr.io"},
		{"REGISTRIES", "host:99999", "host:99999", "registry.example.com:5000"},
		{"REGISTRIES", "*", "every host", "*.example.com"},
		{"REGISTRIES", "w*.example.com", "w*.example.com", "*.example.com"},
		{"REGISTRIES", "~^quay", "regular expressions", "*.example.com"},
		{"CACHE_MAX_SIZE", "1.5g", "1.5g is not a size", "32g"},
		{"CACHE_MAX_SIZE", "0", "no room", "32g"},
		{"CACHE_MAX_SIZE", "9999999999g", "too large", "32g"},
		{"CACHE_MIN_FREE", "1t", "1t is not a size", "32g"},
		{"RATE_LIMIT_RESERVE", "101%", "101% is no share", "20%"},
		{"RATE_LIMIT_RESERVE", "0.2", "0.2 is no share", "20%"},
		{"UPSTREAM_GIVE_UP", "0", "would end at once", "3s"},
		{"CACHE_INACTIVE", "soon", "soon is not a time", "60d"},
		{"CACHE_INACTIVE", "0", "end at once", "60d"},
		{"CACHE_INACTIVE_TIME", "0", "end at once", "60d"},
		{"CACHE_INACTIVE_TIME", "12h 1d", "larger units first", "1d 12h"},
		{"ENABLE_MANIFEST_CACHE", "maybe", "neither true nor false", "want true or false"},
		{"MANIFEST_CACHE_PRIMARY_TIME", "-1s", "-1s is not a time", "60d"},
		{"MANIFEST_CACHE_SECONDARY_TIME", "200 10m", "is not a time", "60d"},
		{"MANIFEST_CACHE_DEFAULT_TIME", "1000y", "too long", "60d"},
		{"ALLOW_PUSH", "2", "neither true nor false", "want true or false"},
		{"ALLOW_OWN_AUTH", "2", "neither true nor false", "want true or false"},
		{"ALLOW_PUSH_WITH_OWN_AUTH", "2", "neither true nor false", "want true or false"},
		{"PROXY_REQUEST_BUFFERING", "2", "neither true nor false", "want true or false"},
		{"VERIFY_SSL", "fasle", "neither true nor false", "want true or false"},
		{"DISABLE_IPV6", "2", "neither true nor false", "want true or false"},
		{"FORCE_UPSTREAM_HTTP_1_1", "2", "neither true nor false", "want true or false"},
		{"HTTP2", "2", "neither true nor false", "want true or false"},
		{"REFUSE_PRIVATE", "2", "neither true nor false", "want true or false"},
		{"DEBUG", "2", "neither true nor false", "want true or false"},
		{"DEBUG_NGINX", "2", "neither true nor false", "want true or false"},
		{"SEND_TIMEOUT", "0", "end at once", "60s"},
		{"CLIENT_BODY_TIMEOUT", "x", "not a time", "90s"},
		{"CLIENT_HEADER_TIMEOUT", "0s", "end at once", "60s"},
		{"KEEPALIVE_TIMEOUT", "300s 300s", "not a time", "90s"},
		{"PROXY_READ_TIMEOUT", "0", "end at once", "60s"},
		{"PROXY_CONNECT_TIMEOUT", "1.5s", "not a time", "90s"},
		{"PROXY_SEND_TIMEOUT", "0", "end at once", "60s"},
		{"PROXY_CONNECT_READ_TIMEOUT", "0", "end at once", "60s"},
		{"PROXY_CONNECT_CONNECT_TIMEOUT", "0", "end at once", "60s"},
		{"PROXY_CONNECT_SEND_TIMEOUT", "0", "end at once", "60s"},
		{"CLIENT_NETWORKS", "lan", "lan is no network", "10.0.0.0/8"},
		{"CLIENT_USERS_FILE", "/missing", "/missing: file does not exist", "htpasswd -B"},
		{"CLIENT_CA_FILE", "/missing", "/missing: file does not exist", "PEM file"},
		{"ALLOWED_NETWORKS", "10.0.0.0/33", "10.0.0.0/33 is no network", "10.0.0.0/8"},
		{"ALLOWED_NETWORKS", "10.1.2.3/8", "bits behind the network", "10.0.0.0/8"},
		{"ALLOWED_NETWORKS", "::ffff:10.0.0.0/104", "IPv4 notation", "10.0.0.0/8"},
		{"TUNNEL_PORTS", "443 x", `"x"`, "443 80 1024-65535"},
		{"TUNNEL_PORTS", "0-10", `"0-10"`, "443 80 1024-65535"},
		{"LOG_LEVEL", "loud", "loud is no level", "info"},
		{"LOG_FORMAT", "xml", "xml is no format", "json or text"},
		{"CONFIG_FILE", "/missing.yaml", "/missing.yaml: file does not exist", "YAML file"},
		{"AUTH_REGISTRIES", "quay.io", "entry 1", "host:user:password"},
	} {
		t.Run(tt.name+"="+tt.value, func(t *testing.T) {
			t.Parallel()
			_, err := loadAt(m, tt.name+"="+tt.value)
			problems := problemsOf(t, err)
			if len(problems) != 1 {
				t.Fatalf("%d problems, want 1: %q", len(problems), problems)
			}
			for _, want := range []string{tt.name, tt.wrong, tt.right} {
				if !strings.Contains(problems[0], want) {
					t.Errorf("problem %q does not contain %q", problems[0], want)
				}
			}
		})
	}
}

func TestEveryProblemIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	m := yamlFileOf("cache_max_size: lots\nlog_level: loud\nalow_push: true\n")
	_, err := loadAt(m, "LISTEN=x", "VERIFY_SSL=never", "REGISTRIES=a/b *", "AUTH_REGISTRIES=quay.io:user", "PROXY_READ_TIMEOUT=0", "CA_CRT_FILE=/nowhere")
	problems := problemsOf(t, err)
	for _, want := range []string{
		"/etc/proxy.yaml:1: cache_max_size: ", "/etc/proxy.yaml:2: log_level: ", "/etc/proxy.yaml:3: alow_push: unknown field",
		"LISTEN: ", "VERIFY_SSL: ", "REGISTRIES: a/b", "REGISTRIES: *", "AUTH_REGISTRIES, entry 1: ", "PROXY_READ_TIMEOUT: ", "CA_CRT_FILE: ",
	} {
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, want) }) {
			t.Errorf("no problem begins with %q in:\n%s", want, err)
		}
	}
}

func TestEnvironmentWinsOverFileWinsOverDefaults(t *testing.T) {
	t.Parallel()
	m := yamlFileOf("cache_max_size: 2g\ncache_min_free: 3g\nregistries: [in.file.test]\n")
	cfg := mustLoad(t, m, "CACHE_MAX_SIZE=1g", "CACHE_MIN_FREE=")
	if cfg.CacheMaxSize != 1<<30 || cfg.CacheMinFree != 3<<30 || cfg.CacheInactive != 60*24*time.Hour {
		t.Errorf("sizes %d and %d, inactive %v, want 1g, 3g and 60d", cfg.CacheMaxSize, cfg.CacheMinFree, cfg.CacheInactive)
	}
	if !cfg.Registries.Match("in.file.test:443") || cfg.Registries.Match("quay.io:443") {
		t.Error("REGISTRIES is not that of the file")
	}
}

func TestTheLastOfTwoVariablesCounts(t *testing.T) {
	t.Parallel()
	if cfg := mustLoad(t, machine{}, "CACHE_MAX_SIZE=1g", "CACHE_MAX_SIZE=2g"); cfg.CacheMaxSize != 2<<30 {
		t.Errorf("cache max size %d, want 2g", cfg.CacheMaxSize)
	}
}

func TestWhichInactiveTimeCounts(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name, file string
		environ    []string
		want       time.Duration
	}{
		{"neither", "", nil, 60 * day},
		{"the older alone", "", []string{"CACHE_INACTIVE=1d"}, day},
		{"both", "", []string{"CACHE_INACTIVE=1d", "CACHE_INACTIVE_TIME=2d"}, 2 * day},
		{"the older in the environment, the newer in the file", "cache_inactive_time: 2d\n", []string{"CACHE_INACTIVE=1d"}, day},
		{"both in the file", "cache_inactive_time: 2d\ncache_inactive: 1d\n", nil, 2 * day},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := mustLoad(t, yamlFileOf(tt.file), tt.environ...).CacheInactive; got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestBadPatternsAreRefusedOnlyWhenTheyCount(t *testing.T) {
	t.Parallel()
	bad := []string{"MANIFEST_CACHE_PRIMARY_REGEX=(?!latest)", "MANIFEST_CACHE_SECONDARY_REGEX=("}
	mustLoad(t, machine{}, bad...)
	_, err := loadAt(machine{}, append(bad, "ENABLE_MANIFEST_CACHE=true")...)
	problems := problemsOf(t, err)
	if len(problems) != 2 || !strings.Contains(problems[0], "MANIFEST_CACHE_PRIMARY_REGEX") || !strings.Contains(problems[0], "look-ahead") ||
		!strings.Contains(problems[1], "MANIFEST_CACHE_SECONDARY_REGEX") {
		t.Errorf("problems %q, want one for each pattern", problems)
	}
}

func TestNetworks(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, yamlFileOf("allowed_networks: [127.0.0.0/8, 'fd00::/8']\n"))
	want := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	if !slices.Equal(cfg.AllowedNetworks, want) {
		t.Errorf("allowed networks %v, want %v", cfg.AllowedNetworks, want)
	}
	cfg = mustLoad(t, machine{}, "ALLOWED_NETWORKS=10.1.2.3 ::1 ::ffff:10.0.0.1")
	want = []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("10.0.0.1/32")}
	if !slices.Equal(cfg.AllowedNetworks, want) {
		t.Errorf("allowed networks %v, want %v", cfg.AllowedNetworks, want)
	}
}

func TestAuthorityOfTheOperators(t *testing.T) {
	t.Parallel()
	m := machine{"pem/ca.crt": aPEMFile, "pem/ca.key": aFile, "ca": aDirectory}
	cfg := mustLoad(t, m, "CA_CRT_FILE=/pem/ca.crt", "CA_KEY_FILE=/pem/ca.key")
	if cfg.CACertFile != "/pem/ca.crt" || cfg.CAKeyFile != "/pem/ca.key" {
		t.Errorf("files %q and %q, want those that were set", cfg.CACertFile, cfg.CAKeyFile)
	}
	// The originals' scripts have these two paths for defaults, and make the files.
	cfg = mustLoad(t, m, "CA_CRT_FILE=/ca/ca.crt", "CA_KEY_FILE=/ca/ca.key")
	if cfg.CACertFile != "" || cfg.CAKeyFile != "" || cfg.CADirectory != "/ca" {
		t.Errorf("files %q and %q in %q, want none: they name what /ca holds anyway", cfg.CACertFile, cfg.CAKeyFile, cfg.CADirectory)
	}
}

// The real file system, once: everything else is tested on an imagined one.
func TestLoadReadsRealFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"proxy.yaml": "cache_max_size: 3g\nauth_registries:\n- {host: quay.io, username: robot, password_file: quay}\n",
		"quay":       "opensesame\n",
	} {
		if err := os.WriteFile(dir+"/"+name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := Load([]string{"HOME=" + dir, "CONFIG_FILE=" + dir + "/proxy.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.CacheMaxSize != 3<<30 || len(cfg.Credentials) != 1 || cfg.Credentials[0].Password.Reveal() != "opensesame" {
		t.Errorf("Load: size %d, credentials %v, want 3g and quay.io's", cfg.CacheMaxSize, cfg.Credentials)
	}
}
