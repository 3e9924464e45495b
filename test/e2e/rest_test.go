package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"container-registry-proxy/internal/registrytest"
)

// What is not an image passes an intercepted host untouched. Pushing images is off here, as it is by default.

// asked remembers the requests that a site got.
type asked struct {
	next http.Handler

	// mu guards requests.
	mu       sync.Mutex
	requests []*http.Request
}

func (a *asked) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.requests = append(a.requests, r)
	a.mu.Unlock()
	a.next.ServeHTTP(w, r)
}

func (a *asked) all() []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests
}

// GitLab has its registry and its repositories on hosts of one name, and central credentials for it: they are for images.
func TestGitThroughAnInterceptedHost(t *testing.T) {
	t.Parallel()
	need(t, "git")
	world := registrytest.NewWorld(t)
	repositories := t.TempDir()
	backend := gitBackend(t, repositories)
	open := &asked{next: backend}
	mux := http.NewServeMux()
	mux.Handle("/open.git/", open)
	mux.HandleFunc("/private.git/", func(w http.ResponseWriter, r *http.Request) {
		if name, secret, _ := r.BasicAuth(); name != "me" || secret != "mine" {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	})
	host := world.Site("git.test", mux)
	p := startProxy(t, world, "REGISTRIES="+host, "AUTH_REGISTRIES="+strings.Replace(host, ":", "|", 1)+"|"+user+"|secret",
		"AUTH_REGISTRY_DELIMITER=|", "ALLOWED_NETWORKS=127.0.0.0/8")
	dir := t.TempDir()
	git := func(at string, args ...string) string {
		t.Helper()
		return command{args: append([]string{"git", "-C", at}, args...), env: append(p.way().env,
			"GIT_SSL_CAINFO="+p.ca(), "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@git.test",
			"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@git.test")}.run(t)
	}
	git(dir, "init", "--quiet", "work")
	work := filepath.Join(dir, "work")
	writeFile(t, filepath.Join(work, "large"), string(registrytest.Bytes(1, 2<<20)))
	git(work, "add", ".")
	git(work, "commit", "--quiet", "--message=first")
	for _, name := range []string{"open.git", "private.git"} {
		git(dir, "clone", "--quiet", "--bare", work, filepath.Join(repositories, name))
		git(filepath.Join(repositories, name), "config", "http.receivepack", "true")
	}

	git(dir, "clone", "--quiet", "https://"+host+"/open.git", "clone")
	if got, want := git(filepath.Join(dir, "clone"), "rev-parse", "HEAD"), git(work, "rev-parse", "HEAD"); got != want {
		t.Errorf("clone is at %s, want %s", got, want)
	}
	for _, r := range open.all() {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s %s: git got the credentials of the registry", r.Method, r.URL)
		}
	}
	if len(open.all()) == 0 {
		t.Error("the site was asked for nothing")
	}

	git(dir, "clone", "--quiet", "https://me:mine@"+host+"/private.git", "own")
	own := filepath.Join(dir, "own")
	git(own, "commit", "--quiet", "--allow-empty", "--message=second")
	git(own, "push", "--quiet", "origin", "HEAD")
	if got, want := git(filepath.Join(repositories, "private.git"), "rev-parse", "HEAD"), git(own, "rev-parse", "HEAD"); got != want {
		t.Errorf("the repository is at %s after a push, want %s", got, want)
	}
}

// gitBackend serves the bare repositories of a directory, as GitLab and others do.
func gitBackend(t *testing.T, repositories string) http.Handler {
	t.Helper()
	path, err := exec.CommandContext(t.Context(), "git", "--exec-path").Output()
	if err != nil {
		t.Fatalf("git --exec-path: %v", err)
	}
	return &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Root: "/",
		Env:        []string{"GIT_PROJECT_ROOT=" + repositories, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=me"},
		InheritEnv: []string{"PATH"}, Stderr: t.Output(),
	}
}

// The search of Docker Hub is the one part of the old API that is in use.
func TestDockerSearch(t *testing.T) {
	t.Parallel()
	need(t, "dockerd", "docker", "containerd")
	world := registrytest.NewWorld(t)
	hub := &asked{next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/search" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"num_results":1,"query":%q,"results":[{"name":"library/hello","description":"says it","star_count":7,"is_official":true}]}`, r.FormValue("q"))
	})}
	serveOn443(t, world, "index.docker.io", hub)
	d := startDockerd(t, startProxy(t, world, "ALLOWED_NETWORKS=127.0.0.0/8").way(), "{}")
	for range 2 {
		if got, want := d.run(t, "search", "--format", "{{.Name}} {{.StarCount}}", "hello"), "hello 7"; !strings.HasSuffix(got, want) {
			t.Errorf("docker search says %q, want %q", got, want)
		}
	}
	searches := 0
	for _, r := range hub.all() {
		if r.URL.Path == "/v1/search" && r.FormValue("q") == "hello" {
			searches++
		}
	}
	if searches != 2 {
		t.Errorf("Docker Hub was asked %d times, want 2: nothing of a search is kept", searches)
	}
}

// serveOn443 adds a host with the usual port to a world.
func serveOn443(t *testing.T, world *registrytest.World, name string, handler http.Handler) {
	t.Helper()
	at := world.Reserve(name).Addr()
	l, err := net.Listen("tcp", net.JoinHostPort(at.String(), "443"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{world.Certificate(time.Now().Add(time.Hour), name)},
	}}
	ended := make(chan struct{})
	go func() { // until the clean-up below, which waits for it
		defer close(ended)
		_ = server.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
}

func TestWebSocketThroughAnInterceptedHost(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	host := world.Site("chat.test", websocket.Handler(func(ws *websocket.Conn) {
		_, _ = io.WriteString(ws, "hello") // the server speaks first
		_, _ = io.Copy(ws, ws)
	}))
	p := startProxy(t, world, "REGISTRIES="+host, "ALLOWED_NETWORKS=127.0.0.0/8")
	config, err := websocket.NewConfig("wss://"+host+"/room?id=1", "https://"+host)
	if err != nil {
		t.Fatal(err)
	}
	ws, err := websocket.NewClient(config, p.connect(t, host))
	if err != nil {
		t.Fatalf("upgrade: %v", err)
	}
	defer ws.Close()
	if err := ws.SetDeadline(time.Now().Add(commandTimeout)); err != nil {
		t.Fatal(err)
	}
	receive := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(ws, got); err != nil || string(got) != want {
			t.Fatalf("received %.40q, %v, want %.40q", got, err, want)
		}
	}
	receive("hello")
	for _, message := range []string{"one", strings.Repeat("two", 10000), "three"} {
		if _, err := io.WriteString(ws, message); err != nil {
			t.Fatal(err)
		}
		receive(message)
	}
}

// connect opens TLS to a host through the proxy, by CONNECT.
func (p *proxy) connect(t *testing.T, host string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := fmt.Fprintf(conn, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", host); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil) // nothing follows before we speak
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT %s: %v, %v", host, resp, err)
	}
	name, _, _ := strings.Cut(host, ":")
	return tls.Client(conn, &tls.Config{RootCAs: p.roots(t), ServerName: name})
}

// A token request by POST is none of the proxy's business, and no push either: it has the client's own login in it.
func TestOAuth2TokenPost(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	o, fake := tokenRegistry(t, world, "bearer.test", newImage(t, 70))
	p := startProxy(t, world, "REGISTRIES="+o.host+" "+fake.TokenHost(), "ALLOWED_NETWORKS=127.0.0.0/8")
	tokens := map[string]bool{}
	for range 2 {
		resp, err := p.client(t).PostForm("https://"+fake.TokenHost()+"/token", url.Values{
			"grant_type": {"password"}, "username": {user}, "password": {password}, "client_id": {"e2e"},
			"service": {"bearer.test"}, "scope": {"repository:" + repository + ":pull"},
		})
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		var answer struct {
			Token string `json:"access_token"`
		}
		if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(body, &answer) != nil || answer.Token == "" {
			t.Fatalf("POST to the token service: %s, %v: %s, want a token", resp.Status, err, body)
		}
		tokens[answer.Token] = true
		// It is a token of the service: the registry itself takes it.
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+o.host+"/v2/"+repository+"/manifests/"+tag, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+answer.Token)
		manifest, err := world.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(manifest.Body)
		_ = manifest.Body.Close()
		if err != nil || !bytes.Equal(got, o.image.Manifest) {
			t.Errorf("the registry answers %s to the token: %s", manifest.Status, got)
		}
	}
	if len(tokens) != 2 {
		t.Error("a token answer was kept: both requests got the same token")
	}
	for _, r := range fake.To("auth.bearer.test") {
		if r.Authorization() != "" {
			t.Errorf("%s %s: the proxy added an Authorization", r.Method, r.Path)
		}
	}
	if strings.Contains(p.daemon.text(), password) {
		t.Error("the proxy logged the password")
	}
}
