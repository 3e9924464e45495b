package setup

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// scriptPaths are the pages that root gives to a shell.
func scriptPaths() []string {
	var paths []string
	for _, name := range Clients() {
		paths = append(paths, "/setup/"+name)
		if name != "systemd" {
			paths = append(paths, "/setup/"+name+"?mode=mirror")
		}
	}
	return paths
}

// Root runs what a script says, and the Host header is a stranger's. The nginx originals print whatever it holds.
func TestHostileHosts(t *testing.T) {
	t.Parallel()
	certificate := newAuthority(t)
	h := Handler(Config{CertificatePEM: certificate})
	named := Handler(Config{CertificatePEM: certificate, Address: "https://proxy.example:3128"})
	refusal := get(h, "GET", "/setup/systemd", "").Body.String()
	for _, host := range []string{
		"", " ", ":", ":3128", "proxy:", "proxy:port", "proxy:0", "proxy:65536", "proxy:99999", "proxy:-1", "proxy:+1", "proxy:3128:3128", "proxy:3128/", "proxy/x",
		`proxy"`, `proxy'`, "proxy`id`", "proxy$(id)", "$(id)", "${HOME}", "$HOME", "proxy;id", "proxy&id", "proxy|id", "proxy>x", "proxy<x", "proxy\nid", "proxy\r\nid", "proxy\x00",
		"proxy id", "proxy\tid", "proxy%0aid", "proxy%n", `proxy\`, "proxy#", "proxy?", "proxy*", "proxy!", "proxy~", "proxy=x", "proxy,x", "proxy(", "proxy)", "proxy{}", "proxy@host",
		"-oProxyCommand=id", "-", ".proxy", "proxy\nEND\nid\n", "@CERTIFICATES@", "[", "[]", "[]:3128", "[::1", "::1", "fd00::1", "[fd00::1%eth0]", "[fd00::1%25eth0]", "[127.0.0.1]",
		"[::::]", "[fd00::1]id", "[fd00::1]:3128\nid", "[g::1]", "prøxy", "рroxy", strings.Repeat("a", 300),
	} {
		for _, path := range scriptPaths() {
			got := get(h, "GET", path, host)
			if got.Code != 400 || got.Body.String() != refusal {
				t.Errorf("%s of Host %q: status %d, want 400 and nothing of the host: %s", path, host, got.Code, got.Body)
			}
			if got, want := get(named, "GET", path, host).Body.String(), get(named, "GET", path, "proxy:3128").Body.String(); got != want {
				t.Errorf("%s of Host %q where the operator has named the proxy: want the script that all get: %s", path, host, got)
			}
		}
		if got := get(h, "GET", "/", host); got.Code != 200 || !strings.Contains(got.Body.String(), "http://ADDRESS:3128/ca.crt") {
			t.Errorf("Host %q: status %d, want the page without it: %s", host, got.Code, got.Body)
		}
	}
	for host, want := range map[string]string{
		"192.168.66.72:3128": "192.168.66.72:3128", "proxy": "proxy", "container-registry-proxy:3128": "container-registry-proxy:3128",
		"docker_registry_proxy:3128": "docker_registry_proxy:3128", "Proxy.Example.COM:80": "proxy.example.com:80", "[fd00::1]:3128": "[fd00::1]:3128",
		"[FD00::1]": "[fd00::1]", "[::ffff:10.0.0.1]:3128": "[::ffff:10.0.0.1]:3128", "proxy.:3128": "proxy.:3128", "Environment:3128": "environment:3128",
	} {
		for _, path := range scriptPaths() {
			got := get(h, "GET", path, host)
			if got.Code != 200 || !strings.Contains(got.Body.String(), "http://"+want+"/") {
				t.Errorf("%s of Host %q: status %d, want a script for %s: %s", path, host, got.Code, want, got.Body)
			}
		}
	}
}

// Where clients reach the proxy is what the operator says. If he says nothing, a connection that is TLS is no header that a
// stranger could have made up.
func TestAddressOfTheProxy(t *testing.T) {
	t.Parallel()
	certificate := newAuthority(t)
	for _, tt := range []struct{ set, asked, want string }{
		{"", "http://proxy:3128", "http://proxy:3128"},
		{"", "https://proxy:3128", "https://proxy:3128"},
		{"", "https://proxy.lan", "https://proxy.lan:443"},
		{"http://10.0.0.1:3128", "https://proxy:3128", "http://10.0.0.1:3128"},
		{"https://proxy.example:8443", "http://10.0.0.1:3128", "https://proxy.example:8443"},
		{"https://[fd00::1]:3128", "http://10.0.0.1:3128", "https://[fd00::1]:3128"},
	} {
		h := Handler(Config{CertificatePEM: certificate, Address: tt.set})
		body := func(path string) string {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", tt.asked+path, nil))
			return w.Body.String()
		}
		for path, want := range map[string]string{
			"/": "HTTPS_PROXY=" + tt.want + "/\n", "/setup/docker": "'HTTPS_PROXY=" + tt.want + "/'", "/setup/systemd": `"HTTPS_PROXY=` + tt.want + `/"`,
			"/setup/docker?mode=mirror": `["` + tt.want + `"]`,
		} {
			if got := body(path); !strings.Contains(got, want) {
				t.Errorf("SETUP_ADDRESS=%s, asked at %s: %s has no %s: %s", tt.set, tt.asked, path, want, got)
			}
		}
	}
	// Configurations that nobody checked are no way in either.
	for _, set := range []string{"https://", "https://proxy$(id)", "https://proxy:3128/x", "https://user@proxy", "https://proxy\nid"} {
		if got := get(Handler(Config{CertificatePEM: certificate, Address: set}), "GET", "/setup/docker", "proxy:3128"); got.Code != 400 {
			t.Errorf("SETUP_ADDRESS=%q: status %d: %s", set, got.Code, got.Body)
		}
	}
}

// A registry's client takes a name without dot and port for a repository of Docker Hub.
func TestAddressWithoutPort(t *testing.T) {
	t.Parallel()
	h := Handler(Config{CertificatePEM: newAuthority(t), Registries: []string{"quay.io"}})
	for host, want := range map[string]string{
		"proxy": `"proxy:80/quay.io"`, "proxy:3128": `"proxy:3128/quay.io"`, "[fd00::1]": `"[fd00::1]:80/quay.io"`, "[fd00::1]:3128": `"[fd00::1]:3128/quay.io"`,
	} {
		script := get(h, "GET", "/setup/podman?mode=mirror", host).Body.String()
		if want = strings.Replace(want, "quay.io", "$1", 1); !strings.Contains(script, "location = "+want) {
			t.Errorf("Host %q: no mirror at %s: %s", host, want, script)
		}
	}
}

// So is the query. What is refused is not repeated, and a script holds nothing of what was refused.
func TestHostileQueries(t *testing.T) {
	t.Parallel()
	h := Handler(Config{CertificatePEM: newAuthority(t)})
	const canary = "canary"
	for _, noProxy := range []string{
		canary + `"`, canary + "'", canary + "`id`", canary + "$(id)", "$" + canary, "${" + canary + "}", canary + ";id", canary + "&id", canary + "|id", canary + ">x", canary + "<x",
		canary + "\nid", canary + "\r\nid", canary + "\x00", canary + "\nEND\nid\n", canary + " id", canary + "\tid", canary + "%n", canary + `\`, canary + "#", canary + "?", canary + "*",
		"*." + canary, "*", canary + "!", "~" + canary, canary + "=x", canary + "(", canary + "{a,b}", "-" + canary, canary + "/24", "10.0.0.0/33", "10.0.0.0/" + canary, "fe80::1%" + canary,
		"@CERTIFICATES@" + canary, "prøxy" + canary, "a,," + canary, "," + canary, canary + ",", strings.Repeat("a,", 4000) + canary, strings.Repeat(canary, 100),
	} {
		for _, path := range scriptPaths() {
			path, _, _ = strings.Cut(path, "?")
			for _, query := range []string{"?no_proxy=" + url.QueryEscape(noProxy), "?no_proxy=.svc&mode=" + url.QueryEscape(noProxy), "?" + url.QueryEscape(noProxy) + "=1"} {
				got := get(h, "GET", path+query, "proxy:3128")
				if got.Code != 400 || strings.Contains(got.Body.String(), canary) {
					t.Errorf("%s%s: status %d, want 400 and nothing of the query: %s", path, query, got.Code, got.Body)
				}
			}
		}
	}
	for _, query := range []string{"?mode=mirror&mode=mirror", "?no_proxy=a&no_proxy=b", "?mode=%zz", "?mode=mirror;id", "?proxy=evil:1", "?mode=Mirror"} {
		if got := get(h, "GET", "/setup/docker"+query, "proxy:3128"); got.Code != 400 {
			t.Errorf("%s: status %d, want 400: %s", query, got.Code, got.Body)
		}
	}
	for given, want := range map[string]string{
		"10.0.0.0/8,172.16.0.0/12": "10.0.0.0/8,172.16.0.0/12", ".svc, .Cluster.Local": ".svc,.cluster.local", "fd00::/8,::1": "fd00::/8,::1",
		"node_1.lan:8080": "node_1.lan:8080", "": "",
	} {
		script := get(h, "GET", "/setup/docker?no_proxy="+url.QueryEscape(given), "proxy:3128").Body.String()
		if want != "" && !strings.Contains(script, " NO_PROXY="+want+"'") || want == "" && strings.Contains(script, "NO_PROXY") {
			t.Errorf("no_proxy=%s: want NO_PROXY=%s in the script: %s", given, want, script)
		}
	}
}

// What proxies in between say of themselves is a stranger's too.
func TestHostileForwardedHeaders(t *testing.T) {
	t.Parallel()
	h := Handler(Config{CertificatePEM: newAuthority(t)})
	for _, path := range append(scriptPaths(), "/setup/docker/undo", "/") {
		want := get(h, "GET", path, "proxy:3128").Body.String()
		for _, name := range []string{
			"X-Forwarded-Host", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Server", "X-Forwarded-Prefix", "X-Forwarded-Uri", "Forwarded",
			"X-Host", "X-Original-Host", "X-Original-Url", "X-Rewrite-Url", "X-Real-Ip", "X-Http-Host-Override", "Referer", "Origin", "User-Agent", "Via", "Cookie", "Authorization",
		} {
			for _, value := range []string{"evil:3128", `evil$(id)"`, `host=evil;proto="$(id)"`} {
				r := httptest.NewRequest("GET", path, nil)
				r.Host = "proxy:3128"
				r.Header.Set(name, value)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Body.String() != want {
					t.Errorf("%s with %s: %s changes the page: %s", path, name, value, w.Body)
				}
			}
		}
	}
}

func FuzzOptions(f *testing.F) {
	for _, query := range []string{"mode=mirror", "no_proxy=10.0.0.0/8,.svc", "no_proxy=$(id)", "mode=intercept&no_proxy=fd00::/8"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		o, err := parseOptions(query)
		if err == nil && strings.ContainsFunc(o.NoProxy, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789._-:/,", r)
		}) {
			t.Errorf("parseOptions(%q) = %q, which is more than addresses", query, o.NoProxy)
		}
	})
}
