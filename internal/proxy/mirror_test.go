package proxy_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/mitm"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/proxy"
)

const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// mirrorHouse is a proxy of registry.test, quay.io and Docker Hub, with a TLS face of its own.
func mirrorHouse(t *testing.T, registry http.HandlerFunc, change func(*proxy.Config)) *house {
	t.Helper()
	return newHouse(t, echo, func(cfg *proxy.Config) {
		cfg.Intercept = func(authority string) (oci.Registry, bool) {
			reg, err := oci.ParseRegistry(authority)
			return reg, err == nil && strings.Contains(" docker.io quay.io registry.test:5000 ", " "+string(reg)+" ")
		}
		authority, err := mitm.Open(mitm.Config{Directory: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		cfg.ServerTLS = authority.TLSConfig("mirror.test")
		cfg.Registry = registry
		if change != nil {
			change(cfg)
		}
	})
}

// describe answers with what the registry's handler was given.
func describe(w http.ResponseWriter, r *http.Request) {
	reg, _ := oci.RegistryFrom(r.Context())
	fmt.Fprintf(w, "%s %s", reg, r.URL.RequestURI())
}

func TestMirrorNames(t *testing.T) {
	t.Parallel()
	h := mirrorHouse(t, describe, nil)
	for _, tc := range []struct {
		path   string
		status int
		want   string
	}{
		{"/v2/", 200, "{}"},
		{"/v2", 200, "{}"},
		// containerd
		{"/v2/library/alpine/manifests/3?ns=docker.io", 200, "docker.io /v2/library/alpine/manifests/3"},
		{"/v2/quay.io/org/app/blobs/uploads/a%2Fb%3D?_state=x%20y;z=1", 200, "quay.io /v2/org/app/blobs/uploads/a%2Fb%3D?_state=x%20y;z=1"},
		{"/v2/org/app/tags/list?n=5&ns=registry.test:5000", 200, "registry.test:5000 /v2/org/app/tags/list?n=5"},
		{"/v2/quay.io/app/manifests/3?ns=docker.io", 200, "docker.io /v2/quay.io/app/manifests/3"}, // ns wins
		// podman, CRI-O, docker pull proxy:3128/quay.io/org/app
		{"/v2/quay.io/org/app/blobs/" + digest, 200, "quay.io /v2/org/app/blobs/" + digest},
		{"/v2/registry.test:5000/app/manifests/x", 200, "registry.test:5000 /v2/app/manifests/x"},
		{"/v2/registry.test%3A5000/app/manifests/x", 200, "registry.test:5000 /v2/app/manifests/x"},
		{"/v2/docker.io/alpine/manifests/3", 200, "docker.io /v2/library/alpine/manifests/3"},
		// dockerd
		{"/v2/library/alpine/manifests/3", 200, "docker.io /v2/library/alpine/manifests/3"},
		{"/v2/alpine/manifests/3", 200, "docker.io /v2/library/alpine/manifests/3"},
		{"/v2/org/app/manifests/3", 200, "docker.io /v2/org/app/manifests/3"},
		{"/v2/a.b/manifests/3", 200, "docker.io /v2/library/a.b/manifests/3"}, // one component is no host
		// refused
		{"/v2/evil.test/org/app/manifests/x", 403, "REGISTRIES"},
		{"/v2/org/app/manifests/x?ns=evil.test", 403, "evil.test"},
		{"/v2/org/app/manifests/x?ns=http://169.254.169.254/", 403, "REGISTRIES"},
		{"/v2/quay.io/../x/manifests/x", 400, "NAME_INVALID"},
		{"/v2/quay.io/org/app/blobs/sha256:abc", 400, "DIGEST_INVALID"},
		{"/%762/library/alpine/manifests/3", 404, "spelling"},
	} {
		status, got := h.ask(http.DefaultClient, "GET", "http://"+h.address+tc.path, nil, nil)
		if status != tc.status || !strings.Contains(got, tc.want) {
			t.Errorf("GET %s: %d %q, want %d with %q", tc.path, status, got, tc.status, tc.want)
		}
	}
}

func TestMirrorOfAllRegistries(t *testing.T) {
	t.Parallel()
	h := mirrorHouse(t, describe, func(cfg *proxy.Config) {
		cfg.Mirror = func() (oci.Registry, bool) { return "quay.io", true }
	})
	for path, want := range map[string]string{
		"/v2/any.test/org/app/manifests/x":       "any.test /v2/org/app/manifests/x",
		"/v2/org/app/manifests/x?ns=any.test:81": "any.test:81 /v2/org/app/manifests/x",
		"/v2/app/manifests/x":                    "quay.io /v2/app/manifests/x", // only Docker Hub has library/
	} {
		if status, got := h.ask(http.DefaultClient, "GET", "http://"+h.address+path, nil, nil); status != 200 || got != want {
			t.Errorf("GET %s: %d %q, want %q", path, status, got, want)
		}
	}
}

// In plain text neither side may be led to show a login; over TLS a challenge and its answer pass.
func TestMirrorLogins(t *testing.T) {
	t.Parallel()
	h := mirrorHouse(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Www-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, "authorization %q", r.Header.Get("Authorization"))
	}, nil)
	secure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, tc := range []struct {
		scheme, challenge, authorization string
	}{
		{"http", "", `authorization ""`},
		{"https", `Basic realm="x"`, `authorization "Basic own"`},
	} {
		req, _ := http.NewRequest("GET", tc.scheme+"://"+h.address+"/v2/org/app/manifests/x", nil)
		req.Header.Set("Authorization", "Basic own")
		resp, err := secure.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 401 || resp.Header.Get("Www-Authenticate") != tc.challenge || string(body) != tc.authorization {
			t.Errorf("%s: %d with challenge %q, %s; want %q, %s", tc.scheme, resp.StatusCode, resp.Header.Get("Www-Authenticate"), body, tc.challenge, tc.authorization)
		}
	}
	secure.CloseIdleConnections()
}

// What a client is told to ask for next has to come back here.
func TestMirrorLinks(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ path, header, sent, want string }{
		{"/v2/quay.io/org/app/tags/list", "Link", `</v2/org/app/tags/list?last=b&n=2>; rel="next"`, `</v2/quay.io/org/app/tags/list?last=b&n=2>; rel="next"`},
		{"/v2/quay.io/org/app/tags/list", "Link", `<https://quay.io/v2/org/app/tags/list?last=b>; rel="next"`, `</v2/quay.io/org/app/tags/list?last=b>; rel="next"`},
		{"/v2/quay.io/org/app/tags/list", "Link", `<https://other.test/v2/org/app/tags/list>; rel="next"`, `<https://other.test/v2/org/app/tags/list>; rel="next"`},
		{"/v2/org/app/tags/list?ns=quay.io", "Link", `</v2/org/app/tags/list?last=b>; rel="next"`, `</v2/org/app/tags/list?last=b&ns=quay.io>; rel="next"`},
		{"/v2/org/app/tags/list", "Link", `<https://registry-1.docker.io/v2/org/app/tags/list?last=b>; rel="next"`, `</v2/org/app/tags/list?last=b>; rel="next"`},
		{"/v2/quay.io/org/app/tags/list", "Location", "https://quay.io/v2/org/app/blobs/uploads/1?state=x", "/v2/quay.io/org/app/blobs/uploads/1?state=x"},
		{"/v2/quay.io/org/app/tags/list", "Location", "https://cdn.test/x?sig=1", "https://cdn.test/x?sig=1"},
	} {
		h := mirrorHouse(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(tc.header, tc.sent) }, nil)
		resp, err := http.Get("http://" + h.address + tc.path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := resp.Header.Get(tc.header); got != tc.want {
			t.Errorf("%s with %s: %s becomes %s, want %s", tc.path, tc.header, tc.sent, got, tc.want)
		}
	}
}

// A proxy that is itself reached over TLS does all that one reached in plain text does.
func TestProxyOverTLS(t *testing.T) {
	t.Parallel()
	h := mirrorHouse(t, describe, nil)
	authority := farEnd(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	connect := func(authority string) *tls.Conn {
		t.Helper()
		c := tls.Client(h.dialProxy(), &tls.Config{InsecureSkipVerify: true})
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
		got := make([]byte, len("HTTP/1.1 200 Connection established\r\n\r\n"))
		if _, err := io.ReadFull(c, got); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 200 ") {
			t.Fatalf("CONNECT %s over TLS: %q, %v", authority, got, err)
		}
		return c
	}
	tunnel := connect(authority)
	fmt.Fprint(tunnel, "through")
	_ = tunnel.CloseWrite()
	if got, err := io.ReadAll(tunnel); string(got) != "through" || err != nil {
		t.Errorf("tunnel over TLS carries %q, %v", got, err)
	}
	inner := tls.Client(connect("quay.io:443"), &tls.Config{RootCAs: h.roots, ServerName: "quay.io", InsecureSkipVerify: true})
	fmt.Fprint(inner, "GET /v2/org/app/manifests/x HTTP/1.1\r\nHost: quay.io\r\nConnection: close\r\n\r\n")
	if got, _ := io.ReadAll(inner); !strings.HasSuffix(string(got), "quay.io /v2/org/app/manifests/x") {
		t.Errorf("intercepted connection over TLS answers %q", got)
	}
}

// A client that says nothing keeps nobody from stopping.
func TestSilentClientIsCutOnShutdown(t *testing.T) {
	t.Parallel()
	h := newHouse(t, echo, nil)
	silent := h.dialProxy()
	h.ask(http.DefaultClient, "GET", "http://"+h.address+"/healthz", nil, nil) // by now the silent one is accepted too
	http.DefaultClient.CloseIdleConnections()
	done := make(chan error, 1)
	go func() { done <- h.proxy.Shutdown(t.Context()) }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Shutdown waits for a client that says nothing")
	}
	if n, err := silent.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the silent client reads %d bytes, %v, want the end", n, err)
	}
}
