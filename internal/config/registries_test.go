package config

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"container-registry-proxy/internal/oci"
)

func TestRegistriesOfTheFile(t *testing.T) {
	t.Parallel()
	m := yamlFileOf(`registries:
  - plain-name.test
  - &name "*.wild.test"
  - host: Quay.io:443
    parallel_downloads: 4
    upstream_concurrency: 10
    upstream_rate: 2.5
    ca_file: ca.pem
    proxy: socks5://parent.test
    connect_timeout: 3s
    read_timeout: 1m 30s
    fallback: [one.test, "two.test:5000"]
  - {host: lan.test:5000, plain_http: true, proxy: none}
  - {host: odd.test, insecure: yes, proxy: "http://parent.test:8080", proxy_username: me, proxy_password_file: /secret}
  - {host: registry-1.docker.io, fallback: mirror.test}
`)
	m["etc/ca.pem"], m["secret"] = aPEMFile, &fstest.MapFile{Data: []byte("pa:ss\n")}
	cfg := mustLoad(t, m)
	want := []Upstream{
		{
			Registry: "quay.io", ParallelDownloads: 4, Concurrency: 10, Rate: 2.5, CAFile: "/etc/ca.pem",
			Parent: Parent{URL: "socks5://parent.test:1080"}, ConnectTimeout: 3 * time.Second, ReadTimeout: 90 * time.Second,
			Fallbacks: []oci.Registry{"one.test", "two.test:5000"},
		},
		{Registry: "lan.test:5000", PlainHTTP: true, Parent: Parent{None: true}},
		{Registry: "odd.test", Insecure: true, Parent: cfg.Upstreams[2].Parent},
		{Registry: "docker.io", Fallbacks: []oci.Registry{"mirror.test"}},
	}
	if diff := cmp.Diff(want, cfg.Upstreams, cmp.Comparer(func(a, b Parent) bool { return a == b })); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if p := cfg.Upstreams[2].Parent; p.URL != "http://parent.test:8080" || p.Login.Reveal() != "me:pa:ss" {
		t.Errorf("parent %s %q, want the login of the file", p.URL, p.Login.Reveal())
	}
	for host, want := range map[string]bool{
		"plain-name.test:443": true, "a.wild.test:443": true, "quay.io:443": true, "lan.test:5000": true, "odd.test:443": true,
		"ghcr.io:443": false, "one.test:443": false,
	} {
		if cfg.Registries.Match(host) != want {
			t.Errorf("%s: intercepted = %v, want %v", host, !want, want)
		}
	}
	notices := strings.Join(cfg.Notices, "\n")
	for _, want := range []string{"lan.test:5000: plain_http: true: whoever is between", "odd.test: insecure: true: whoever is between"} {
		if !strings.Contains(notices, want) {
			t.Errorf("notices %q, want one with %q", notices, want)
		}
	}
}

// REGISTRIES of the environment wins over names of the file. What the file says of a registry stays said.
func TestEntriesCountBesideTheEnvironment(t *testing.T) {
	t.Parallel()
	m := yamlFileOf("registries: [name.test, {host: entry.test, parallel_downloads: 1}]\n")
	cfg := mustLoad(t, m, "REGISTRIES=env.test")
	if !cfg.Registries.Match("env.test:443") || !cfg.Registries.Match("entry.test:443") || !cfg.Named("entry.test") || cfg.Registries.Match("name.test:443") {
		t.Errorf("intercepted: %q, want those of the environment and those with entries", cfg.Registries.Exact())
	}
	if notices := strings.Join(cfg.Notices, "\n"); !strings.Contains(notices, "entry.test: has an entry in registries of the file and is not in REGISTRIES") {
		t.Errorf("notices %q", notices)
	}
	if u, ok := cfg.Upstream("http://entry.test"); !ok || u.ParallelDownloads != 1 {
		t.Errorf("the entry of entry.test is %+v, %v", u, ok)
	}
}

func TestBadRegistriesOfTheFile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		content string
		want    string // in the one problem
	}{
		{"registries: {host: a.test}", ":1: registries: want a list of values"},
		{"registries: [[a.test]]", ":1: registries[0]: want a host, or fields and values, such as {host: quay.io"},
		{"registries: [{parallel_downloads: 1}]", "registries[0]: no host: want host: with one registry, such as quay.io"},
		{"registries: [{host: '*.a.test'}]", ":1: host: *.a.test: a wildcard has no settings of its own: want host[:port]"},
		{"registries: [{host: 'https://a.test'}]", "host: https://a.test: want the host alone, such as a.test"},
		{"registries: [{host: a.test/team}]", "host: a.test/team: want the registry alone, without a repository, such as a.test"},
		{"registries: [{host: [a.test]}]", "host: want one value"},
		{"registries: [{host: }]", "host: want one value"},
		{"registries: [{host: a.test, paralel_downloads: 1}]", "paralel_downloads: unknown field: want one of ca_file, client_certificate"},
		{"registries: [{host: a.test}, {host: a.test:443}]", "registries[1]: a.test has two entries: want one"},
		{"registries: [{host: docker.io}, {host: index.docker.io}]", "registries[1]: docker.io has two entries: want one"},
		{"registries:\n- host: a.test\n  host: b.test", ":3: host: is there twice"},
		{"registries: [{host: a.test, parallel_downloads: 17}]", "parallel_downloads: 17: want a whole number from 1 to 16, such as 4"},
		{"registries: [{host: a.test, upstream_concurrency: 0}]", "upstream_concurrency: 0: want a whole number from 1"},
		{"registries: [{host: a.test, upstream_rate: fast}]", "upstream_rate: fast: want how many requests may begin in a second, such as 20 or 0.5"},
		{"registries: [{host: a.test, insecure: maybe}]", "insecure: maybe is neither true nor false: want true or false"},
		{"registries: [{host: a.test, ca_file: /gone}]", "registries[0]: ca_file /gone: file does not exist: want the path of a file"},
		{"registries: [{host: a.test, ca_file: /text}]", "registries[0]: ca_file /text holds no certificate: want a PEM file with -----BEGIN CERTIFICATE-----"},
		{"registries: [{host: a.test, insecure: true, ca_file: /pem}]", "insecure: with it ca_file is without effect: want one of the two"},
		{"registries: [{host: a.test, plain_http: true, insecure: true}]", "plain_http: there are no certificates without TLS"},
		{"registries: [{host: a.test, client_certificate: /pem}]", "want client_certificate and client_key, the paths of two PEM files, or neither"},
		{"registries: [{host: a.test, client_certificate: /pem, client_key: /gone}]", "client_key /gone: file does not exist"},
		{"registries: [{host: a.test, client_certificate: /pem, client_key: /text}]", "client_key /text: tls: "},
		{"registries: [{host: a.test, proxy: 'gopher://p.test'}]", "proxy: gopher is no kind of proxy: want http://host:port"},
		{"registries: [{host: a.test, proxy: 'http://canary:canary@p.test/x'}]", "proxy: is not the URL of a proxy: want http://host:port"},
		{"registries: [{host: a.test, proxy_username: u, proxy_password_file: /text}]", "proxy_username: want proxy too"},
		{"registries: [{host: a.test, proxy: p.test, proxy_username: u}]", "want proxy_username and proxy_password_file, or neither"},
		{"registries: [{host: a.test, proxy: 'http://canary@p.test', proxy_username: u, proxy_password_file: /text}]", "proxy has a login already"},
		{"registries: [{host: a.test, proxy: p.test, proxy_username: u, proxy_password_file: /gone}]", "proxy_password_file /gone: file does not exist"},
		{"registries: [{host: a.test, connect_timeout: 0}]", "connect_timeout: 0 would end at once: want more than that, such as 60s"},
		{"registries: [{host: a.test, read_timeout: soon}]", "read_timeout: soon is not a time"},
		{"registries: [{host: a.test, fallback: [a.test]}]", "fallback: a.test is the registry itself: want another, such as mirror.gcr.io"},
		{"registries: [{host: a.test, fallback: [b.test, 'b.test:443']}]", "fallback: b.test is there twice: want it once"},
		{"registries: [{host: a.test, fallback: []}]", "fallback: want a list of registries, such as [mirror.gcr.io]"},
		{"registries: [{host: a.test, fallback: ['*.b.test']}]", "fallback: *.b.test: a wildcard has no settings"},
	} {
		t.Run(tt.content, func(t *testing.T) {
			t.Parallel()
			m := yamlFileOf(tt.content + "\n")
			m["text"], m["pem"] = aFile, aPEMFile
			_, err := loadAt(m)
			problems := problemsOf(t, err)
			if len(problems) != 1 || !strings.Contains(problems[0], tt.want) {
				t.Errorf("problems %q, want one with %q", problems, tt.want)
			}
			if strings.Contains(fmt.Sprint(problems), "canary") {
				t.Errorf("problems %q show a login", problems)
			}
		})
	}
}

func TestWhichRequestsGoThroughAParent(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, machine{}, "HTTP_PROXY=http.test:1", "https_proxy=https.test:2",
		"no_proxy=exact.test,.below.test *.star.test,port.test:5000,10.0.0.0/8,192.0.2.1,[2001:db8::1]:5000")
	for address, want := range map[string]string{
		"https://a.test/x": "http://https.test:2", "http://a.test/x": "http://http.test:1",
		"https://exact.test/": "", "https://EXACT.test.:5000/": "", "https://sub.exact.test/": "", "https://inexact.test/": "http://https.test:2",
		"https://below.test/": "http://https.test:2", "https://a.below.test/": "",
		"https://star.test/": "http://https.test:2", "https://a.b.star.test/": "",
		"https://port.test/": "http://https.test:2", "https://port.test:5000/": "",
		"https://10.1.2.3/": "", "https://[::ffff:10.1.2.3]/": "", "https://11.1.2.3/": "http://https.test:2", "https://192.0.2.1:8443/": "",
		"https://[2001:db8::1]:5000/": "", "https://[2001:db8::1]/": "http://https.test:2",
		"https://localhost/": "", "http://127.0.0.1:5000/": "", "http://[::1]/": "",
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := cfg.Parents.For(u).URL; got != want {
			t.Errorf("%s goes through %q, want %q", address, got, want)
		}
	}
	if p := mustLoad(t, machine{}, "HTTPS_PROXY=p.test", "NO_PROXY=*").Parents.For(&url.URL{Scheme: "https", Host: "a.test"}); p.URL != "" {
		t.Errorf("NO_PROXY=*: goes through %s", p.URL)
	}
}

// The manual's example has every field there is.
func TestTheManualsRegistriesLoad(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(content), "### Registries one by one\n")
	_, example, fenced := strings.Cut(section, "```yaml\n")
	example, rest, ended := strings.Cut(example, "```")
	if !found || !fenced || !ended {
		t.Fatal("no example")
	}
	m := yamlFileOf(example)
	for _, path := range regexp.MustCompile(`_(?:file|certificate|key): (\S+)`).FindAllStringSubmatch(example, -1) {
		m[strings.TrimPrefix((&yamlFile{path: "/etc/proxy.yaml"}).beside(path[1]), "/")] = aPEMFile
	}
	_, err = loadAt(m)
	if err != nil { // the pair of the client's certificate is none
		for _, p := range problemsOf(t, err) {
			if !strings.Contains(p, "client_certificate") {
				t.Errorf("the example: %s", p)
			}
		}
	}
	fields := (&yamlFile{}).upstreamFields(&Upstream{}, &parentLogin{})
	fields["fallback"] = nil
	section, _, _ = strings.Cut(rest, "\n### ")
	for name := range fields {
		if !strings.Contains(example, name+":") {
			t.Errorf("the example does not have %s", name)
		}
		if !strings.Contains(section, "`"+name+"`") {
			t.Errorf("the table does not have %s", name)
		}
	}
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^|]+)` \\|").FindAllStringSubmatch(section, -1) {
		listed = append(listed, regexp.MustCompile("[a-z_]{4,}").FindAllString(row[1], -1)...)
	}
	for _, name := range listed {
		if _, known := fields[name]; !known {
			t.Errorf("the table has %s, which nothing reads", name)
		}
	}
	if len(listed) != len(fields) || !slices.Contains(listed, "host") {
		t.Errorf("the table lists %q, want each of %d fields once", listed, len(fields))
	}
}
