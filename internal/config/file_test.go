package config

import (
	"bytes"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"container-registry-proxy/internal/oci"
)

func TestFileSetsWhatTheEnvironmentCannot(t *testing.T) {
	t.Parallel()
	m := yamlFileOf(`# the registries
registries: [quay.io, "*.example.com"]   # a list
tunnel_ports: [443, 8000-8100]
auth_registries:
  - host: reg.example.com:5000
    username: robot
    password_file: secrets/reg        # beside this file
  - {host: gcr.io, username: _json_key, password_file: /run/secrets/gcr}
token_services:
  reg.example.com:5000: [git.example.com]
  quay.io: auth.quay.test
verify_ssl: no
keepalive_timeout: 75
`)
	m["etc/secrets/reg"] = &fstest.MapFile{Data: []byte("pass word\r\n")}
	m["run/secrets/gcr"] = &fstest.MapFile{Data: []byte(serviceAccount + "\n")}
	cfg := mustLoad(t, m)
	var got []string
	for _, c := range cfg.Credentials {
		got = append(got, fmt.Sprintf("%s %s %s", c.Host, c.Username, c.Password.Reveal()))
	}
	if diff := cmp.Diff([]string{"reg.example.com:5000 robot pass word", "gcr.io _json_key " + serviceAccount}, got); diff != "" {
		t.Errorf("credentials (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[oci.Registry][]string{"reg.example.com:5000": {"git.example.com"}, "quay.io": {"auth.quay.test"}}, cfg.TokenServices); diff != "" {
		t.Errorf("token services (-want +got):\n%s", diff)
	}
	if !cfg.Registries.Match("a.example.com:443") || !cfg.Registries.Match("reg.example.com:5000") {
		t.Error("the registries of the file are not intercepted")
	}
	if cfg.TunnelPorts != "443 8000-8100" || cfg.VerifyTLS || cfg.Timeouts.KeepAlive != 75*time.Second {
		t.Errorf("ports %q, verify %v, keep-alive %v, want those of the file", cfg.TunnelPorts, cfg.VerifyTLS, cfg.Timeouts.KeepAlive)
	}
}

func TestCredentialsOfTheEnvironmentReplaceThoseOfTheFile(t *testing.T) {
	t.Parallel()
	m := yamlFileOf("auth_registries: [{host: quay.io, username: u, password_file: /p}]\n")
	m["p"] = aFile
	cfg := mustLoad(t, m, "AUTH_REGISTRIES=ghcr.io:a:b")
	if len(cfg.Credentials) != 1 || cfg.Credentials[0].Host != "ghcr.io" {
		t.Errorf("credentials %v, want ghcr.io's alone", cfg.Credentials)
	}
	if cfg := mustLoad(t, m, "AUTH_REGISTRIES="); len(cfg.Credentials) != 1 || cfg.Credentials[0].Host != "quay.io" {
		t.Errorf("with an empty variable: credentials %v, want quay.io's", cfg.Credentials)
	}
}

func TestFilesThatSetNothing(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "# nothing\n", "---\n", "{}\n", "~\n", "cache_max_size:\nregistries: null\nauth_registries:\ntoken_services:\n"} {
		cfg := mustLoad(t, yamlFileOf(content))
		if cfg.CacheMaxSize != 32<<30 || !cfg.Registries.Match("quay.io:443") {
			t.Errorf("file %q changed a default", content)
		}
	}
}

func TestBadFilesAreRefusedWithTheLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, content string
		want          []string // in the one problem
	}{
		{"unknown field", "listen: :1\ncache_size: 3g\n", []string{"/etc/proxy.yaml:2: cache_size: unknown field"}},
		{"field in capitals", "CACHE_MAX_SIZE: 3g\n", []string{":1: CACHE_MAX_SIZE: unknown field: want cache_max_size"}},
		{"field with hyphens", "cache-max-size: 3g\n", []string{"want cache_max_size"}},
		{"setting without effect", "worker_processes: 4\n", []string{":1: worker_processes: unknown field"}},
		{"setting of the environment alone", "config_file: /x\n", []string{"unknown field"}},
		{"field twice", "allow_push: true\n\nallow_push: false\n", []string{":3: allow_push: is there twice"}},
		{"list for one value", "cache_max_size: [1g, 2g]\n", []string{":1: cache_max_size: want one value"}},
		{"mapping for one value", "listen: {port: 3}\n", []string{":1: listen: want one value"}},
		{"mapping in a list", "tunnel_ports: [443, {a: b}]\n", []string{":1: tunnel_ports: want a list of values"}},
		{"bad value", "\n\nproxy_read_timeout: 0\n", []string{":3: proxy_read_timeout: 0 would end at once", "60s"}},
		{"bad element", "registries:\n- quay.io\n- https://x.test\n", []string{"registries: https://x.test", "such as x.test"}},
		{"merge key", "<<: {allow_push: true}\n", []string{":1: <<: unknown field"}},
		{"no mapping", "- a\n", []string{":1: the file: want fields and values", "cache_max_size: 32g"}},
		{"second document", "allow_push: true\n---\nallow_push: false\n", []string{"CONFIG_FILE: /etc/proxy.yaml: line 2: a second document"}},
		{"no YAML", "a: [\n", []string{"CONFIG_FILE: /etc/proxy.yaml: yaml: line"}},
		{"tab", "a:\n\tb: c\n", []string{"CONFIG_FILE: /etc/proxy.yaml: yaml: line 2"}},
		{"credentials as text", "auth_registries: quay.io:u:p\n", []string{":1: auth_registries: want a list of credentials", "password_file:"}},
		{"credential as text", "auth_registries:\n- quay.io:u:p\n", []string{":2: auth_registries[0]: want a list of credentials"}},
		{"password in the file", "auth_registries:\n- host: quay.io\n  username: u\n  password: canary\n", []string{":4: password: no secret belongs into this file", "password_file"}},
		{"unknown part", "auth_registries: [{host: quay.io, user: u}]\n", []string{":1: user: unknown field: want host, username and password_file"}},
		{"no password file", "auth_registries: [{host: quay.io, username: u}]\n", []string{":1: auth_registries[0]: no password_file"}},
		{"missing password file", "auth_registries: [{host: quay.io, username: u, password_file: /gone}]\n", []string{"auth_registries[0]: password_file /gone: file does not exist"}},
		{"empty password file", "auth_registries: [{host: quay.io, username: u, password_file: /empty}]\n", []string{"auth_registries[0]: no password"}},
		{"huge password file", "auth_registries: [{host: quay.io, username: u, password_file: /huge}]\n", []string{"larger than 1048576 bytes"}},
		{"no host", "auth_registries: [{username: u, password_file: /p}]\n", []string{"auth_registries[0]: the host is not host[:port]"}},
		{"token service of no registry", "token_services: {https://x.test: [y]}\n", []string{":1: token_services: ", "such as x.test"}},
		{"token service with a port", "token_services: {x.test: ['y:5']}\n", []string{":1: token_services: y:5: want a host without a port"}},
		{"token services as a list", "token_services: [a]\n", []string{":1: token_services: want fields and values"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := yamlFileOf(tt.content)
			m["p"], m["empty"] = aFile, &fstest.MapFile{Data: []byte("\n")}
			m["huge"] = &fstest.MapFile{Data: bytes.Repeat([]byte("x"), maxFile+1)}
			_, err := loadAt(m)
			problems := problemsOf(t, err)
			if len(problems) != 1 {
				t.Fatalf("%d problems, want 1: %q", len(problems), problems)
			}
			for _, want := range tt.want {
				if !strings.Contains(problems[0], want) {
					t.Errorf("problem %q does not contain %q", problems[0], want)
				}
			}
			if strings.Contains(problems[0], "canary") {
				t.Errorf("problem %q shows a secret", problems[0])
			}
		})
	}
}

func TestAnAliasStandsForOneValue(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, yamlFileOf("proxy_read_timeout: &t 90s\nproxy_send_timeout: *t\nregistries: [&r quay.io, *r]\n"))
	if cfg.Timeouts.ProxyRead != 90*time.Second || cfg.Timeouts.ProxySend != 90*time.Second {
		t.Errorf("time-outs %v and %v, want 90s", cfg.Timeouts.ProxyRead, cfg.Timeouts.ProxySend)
	}
}

// Files that take a decoder which expands aliases, or recurses, minutes or the whole memory.
func TestBombsAreRefusedQuickly(t *testing.T) {
	t.Parallel()
	aliases := "a: &a [x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'z'; c++ {
		aliases += fmt.Sprintf("%c: &%c [%s*%c]\n", c, c, strings.Repeat(fmt.Sprintf("*%c, ", c-1), 8), c-1)
	}
	for name, content := range map[string]string{
		"aliases":           aliases + "registries: *z\n",
		"alias of itself":   "registries: &r [*r]\n",
		"nested sequences":  "registries: " + strings.Repeat("[", 100_000) + "\n",
		"nested mappings":   "listen: " + strings.Repeat("{a: ", 100_000) + "\n",
		"larger than taken": "# " + strings.Repeat("x", maxFile) + "\n",
		"many fields":       strings.Repeat("a: b\n", maxFile/5),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			if _, err := loadAt(yamlFileOf(content)); err == nil {
				t.Error("accepted")
			}
			if took := time.Since(start); took > 2*time.Minute {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestAFileThatMayNotBeReadIsNamed(t *testing.T) {
	t.Parallel()
	sys := machine{}.system()
	sys.readFile = func(path string) ([]byte, error) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
	}
	_, err := load([]string{"HOME=/h", "CONFIG_FILE=/secret.yaml"}, sys)
	if problems := problemsOf(t, err); len(problems) != 1 || problems[0] != "CONFIG_FILE: /secret.yaml: permission denied: want the path of a YAML file that can be read" {
		t.Errorf("problems %q, want one that names the file and says permission denied", problems)
	}
}

func FuzzFile(f *testing.F) {
	for _, content := range []string{
		"cache_max_size: 3g\nregistries: [quay.io]\n", "auth_registries: [{host: a, username: b, password_file: /p}]\n",
		"token_services: {a: [b]}\n", "a: &a [*a]\n", "- x\n", "x: &y\nlisten: *y\n", "? [a]\n: b\n", "auth_registries: &x\n- *x\n",
	} {
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content string) {
		m := yamlFileOf(content)
		m["p"] = aFile
		cfg, err := loadAt(m)
		if err != nil {
			problemsOf(t, err)
		} else if cfg.Listen == "" || cfg.CacheMaxSize <= 0 || cfg.CacheInactive <= 0 || cfg.Timeouts.ProxyRead <= 0 {
			t.Fatalf("file %q gave an incomplete configuration: %+v", content, cfg)
		}
	})
}
