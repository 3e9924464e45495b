package app_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"container-registry-proxy/internal/registrytest"
)

// as is a client that logs in at the proxy.
func (h *house) as(user, password string) *http.Client {
	return h.client(func(transport *http.Transport) {
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: h.address, User: url.UserPassword(user, password)})
	})
}

// usersFile is an htpasswd file.
func usersFile(t *testing.T, pairs ...string) string {
	t.Helper()
	var lines strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		hash, err := bcrypt.GenerateFromPassword([]byte(pairs[i+1]), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "%s:%s\n", pairs[i], hash)
	}
	path := filepath.Join(t.TempDir(), "htpasswd")
	write(t, map[string]string{path: lines.String()})
	return path
}

// wantPages fails the test unless our own pages are for everybody.
func (h *house) wantPages() {
	h.t.Helper()
	for _, path := range []string{"/healthz", "/ca.crt", "/setup/systemd"} {
		h.local("GET", path).expect(h.t, 200)
	}
}

// denied fails the test unless a request over CONNECT, in absolute form and to the proxy as a mirror gets that status, the
// same words for what is cached and what is not, and no registry hears of it.
func (h *house) denied(reg *registrytest.Registry, status int, word string, paths ...string) {
	h.t.Helper()
	reg.Forget()
	w, a := h.connect(reg.Host())
	if a.status != status || !bytes.Contains(a.body, []byte(word)) || (status == 407) != (a.header.Get("Proxy-Authenticate") != "") {
		h.t.Errorf("CONNECT: %d %v %s, want %d and %s", a.status, a.header, a.body, status, word)
	}
	_ = w.Close()
	var said []string
	for _, path := range paths {
		a := h.local("GET", "/v2/"+reg.Host()+path)
		if a.status != status {
			h.t.Errorf("mirror %s: %d %s, want %d", path, a.status, a.body, status)
		}
		said = append(said, string(a.body))
	}
	for _, other := range said {
		if other != said[0] {
			h.t.Errorf("what is cached is answered with %q, what is not with %q", said[0], other)
		}
	}
	if n := len(reg.Requests()); n != 0 {
		h.t.Errorf("the registry saw %d requests of clients that may not use the proxy", n)
	}
}

func effectClientNetworks(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	h := start(t, reg.World, "REGISTRIES="+reg.Host(), "CLIENT_NETWORKS=192.0.2.0/24 2001:db8::/32")
	h.denied(reg, 403, "CLIENT_NETWORKS", "/app/manifests/1", "/app/manifests/2")
	h.wantPages()
	in := start(t, reg.World, "REGISTRIES="+reg.Host(), "CLIENT_NETWORKS=127.0.0.0/8")
	in.pull(reg, "app", "1").wantOutcomes(t, "MISS", "MISS")
}

func effectClientUsersFile(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	h := start(t, reg.World, "REGISTRIES="+reg.Host(), "CLIENT_USERS_FILE="+usersFile(t, "ci", "canary-proxy-password"))
	ci := h.as("ci", "canary-proxy-password")
	for range 2 {
		if a, err := do(ci, request(t, "GET", reg.URL()+"/v2/app/manifests/1", nil)); err != nil || a.status != 200 {
			t.Fatalf("a good login: %d, %v", a.status, err)
		}
	}
	for _, r := range reg.Requests() {
		if r.Header.Get("Proxy-Authorization") != "" {
			t.Error("the login to the proxy has travelled upstream")
		}
	}
	h.denied(reg, 407, "CLIENT_USERS_FILE", "/app/manifests/1", "/app/manifests/2")
	if _, err := do(h.as("ci", "wrong"), request(t, "GET", reg.URL()+"/v2/app/manifests/1", nil)); err == nil || !strings.Contains(err.Error(), "Proxy Authentication Required") {
		t.Errorf("a wrong password: %v, want 407", err)
	}
	// A mirror's client may log in with a header of its own: Authorization is the registry's.
	h.local("GET", "/v2/"+reg.Host()+"/app/manifests/1", "Proxy-Authorization", login("ci", "canary-proxy-password")).expect(t, 200)
	h.local("GET", "/v2/"+reg.Host()+"/app/manifests/1", "Authorization", login("ci", "canary-proxy-password")).expect(t, 407)
	h.wantPages()
	if strings.Contains(h.log.String(), "canary-proxy-password") || strings.Contains(h.log.String(), strings.TrimPrefix(login("ci", "canary-proxy-password"), "Basic ")) {
		t.Error("the password is in the log")
	}
}

func effectClientCAFile(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	strangers := registrytest.NewWorld(t) // another authority
	path := filepath.Join(t.TempDir(), "clients.crt")
	write(t, map[string]string{path: string(reg.CAPEM())})
	h := start(t, reg.World, "REGISTRIES="+reg.Host(), "CLIENT_CA_FILE="+path)
	h.denied(reg, 403, "CLIENT_CA_FILE", "/app/manifests/1", "/app/manifests/2")
	h.wantPages()
	ask := func(certificates ...tls.Certificate) (answer, error) {
		return do(&http.Client{Timeout: patience, Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: h.trusted, ServerName: "localhost", Certificates: certificates},
		}}, request(t, "GET", "https://"+h.address+"/v2/"+reg.Host()+"/app/manifests/1", nil))
	}
	if a, err := ask(clientCertificate(reg.World)); err != nil || a.status != 200 {
		t.Errorf("with a certificate: %d, %v", a.status, err)
	}
	if a, err := ask(); err != nil || a.status != 403 {
		t.Errorf("without one: %d, %v", a.status, err)
	}
	if a, err := ask(clientCertificate(strangers)); err == nil && a.status != 403 {
		t.Errorf("with a stranger's: %d", a.status)
	}
}

// clientCertificate is one of a client's, which no server has use for.
func clientCertificate(w *registrytest.World) tls.Certificate {
	return w.ClientCertificate(time.Now().Add(time.Hour), "node1.nodes.test")
}

// effectClients: who may pull what, over CONNECT and as a mirror, cached or not; a digest that not everyone may have is
// free for nobody.
func effectClients(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	other := registrytest.New(t, registrytest.Config{World: reg.World, Name: "other.test"})
	img := reg.PushImage("team/app", "1", layers(1, 1, 1000)...)
	reg.PushImage("public/app", "1", layers(2, 1, 1000)...)
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, map[string]string{file: "clients:\n  - users: [ci]\n    registries: [\"registry.test*\"]\n    repositories: [team/*, public/*]\n" +
		"  - users: [dev]\n    repositories: [public/*, mallory/*]\n"})
	h := start(t, reg.World, "REGISTRIES="+reg.Host()+" "+other.Host(), "CONFIG_FILE="+file, "CLIENT_USERS_FILE="+usersFile(t, "ci", "c", "dev", "d", "none", "n"))
	status := func(user, address string) int {
		t.Helper()
		a, err := do(h.as(user, user[:1]), request(t, "GET", address, nil))
		if err != nil {
			t.Fatalf("%s as %s: %v", address, user, err)
		}
		if a.status == 403 && !bytes.Contains(a.body, []byte("clients")) {
			t.Errorf("403 says %s", a.body)
		}
		mirrored := strings.Replace(address, "https://", "http://"+h.address+"/v2/", 1)
		mirrored = strings.Replace(mirrored, "/v2/"+reg.Host()+"/v2/", "/v2/"+reg.Host()+"/", 1)
		mirrored = strings.Replace(mirrored, "/v2/"+other.Host()+"/v2/", "/v2/"+other.Host()+"/", 1)
		m := direct(t, "GET", mirrored, "Proxy-Authorization", login(user, user[:1]))
		if m.status != a.status && !strings.HasSuffix(address, "/v2/") {
			t.Errorf("%s as %s: %d over CONNECT, %d as a mirror", address, user, a.status, m.status)
		}
		return a.status
	}
	layer := "/blobs/" + string(img.Layers[0].Digest)
	for _, tc := range []struct {
		user, address string
		want          int
	}{
		{"ci", reg.URL() + "/v2/team/app/manifests/1", 200},
		{"ci", reg.URL() + "/v2/team/app" + layer, 200},
		{"ci", reg.URL() + "/v2/public/app/tags/list", 200},
		{"ci", other.URL() + "/v2/public/app/manifests/1", 403},
		{"ci", reg.URL() + "/v2/_catalog", 403},
		{"dev", reg.URL() + "/v2/team/app/manifests/1", 403},
		{"dev", reg.URL() + "/v2/team/app" + layer, 403},
		{"dev", reg.URL() + "/v2/team/app/tags/list", 403},
		{"dev", reg.URL() + "/v2/public/app/manifests/1", 200},
		{"dev", other.URL() + "/v2/mallory/app" + layer, 404},
		{"none", reg.URL() + "/v2/public/app/manifests/1", 403},
		{"none", reg.URL() + "/v2/", 403},
		{"dev", reg.URL() + "/v2/", 200},
	} {
		if got := status(tc.user, tc.address); got != tc.want {
			t.Errorf("%s as %s: %d, want %d", tc.address, tc.user, got, tc.want)
		}
	}
	reg.Forget()
	for _, path := range []string{"team/app" + layer, "team/app/manifests/unknown"} {
		if got := status("dev", reg.URL()+"/v2/"+path); got != 403 {
			t.Errorf("%s as dev: %d", path, got)
		}
	}
	if n := len(reg.Requests()); n != 0 {
		t.Errorf("the registry saw %d requests that were refused", n)
	}
}
