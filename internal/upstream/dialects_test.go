package upstream_test

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// lines is a log that several goroutines write.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// clientIn returns a client in a world of registrytest's, with these logins, and its log at debug.
func clientIn(t *testing.T, w *registrytest.World, logins credential.Config, change func(*upstream.Config)) (*upstream.Client, *lines) {
	t.Helper()
	log := &lines{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	logins.Log = logger
	cfg := upstream.Config{
		Dialer: dial.New(dial.Config{Resolver: w, AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Timeout: 10 * time.Second}),
		TLS:    &tls.Config{RootCAs: w.Pool()}, Log: logger, Logins: credential.New(logins),
	}
	if change != nil {
		change(&cfg)
	}
	c := upstream.New(cfg)
	t.Cleanup(c.CloseIdleConnections)
	return c, log
}

// dialect is a registry of a dialect with one image in either repository.
type dialect struct {
	registrytest.Dialect
	*registrytest.Registry
}

func start(t *testing.T, d registrytest.Dialect) *dialect {
	t.Helper()
	r := registrytest.New(t, d.Config)
	for _, repository := range []string{"public/app", "private/app"} {
		r.PushImage(repository, "1", registrytest.Layer(1, 1<<10))
	}
	return &dialect{d, r}
}

// trusts are the settings under which an operator uses the registry.
func (d *dialect) trusts(c *upstream.Config) {
	c.Named = func(host string) bool {
		return host == d.Config.Name || strings.HasPrefix(host, d.Config.Name) || host == d.TokenName
	}
	if d.TokenName != "" {
		c.Pairs = map[oci.Registry][]string{d.Registry.Name(): {d.TokenName}}
	}
	if d.Dialect.Name == "GitLab" || d.Dialect.Name == "Docker Hub" {
		c.Pairs = nil // one domain, both named
	}
}

func (d *dialect) manifest(t *testing.T, c *upstream.Client, repository string, as auth.Identity) int {
	t.Helper()
	resp, err := c.Do(t.Context(), upstream.Request{
		Method: http.MethodGet, Registry: d.Registry.Name(), Path: "/v2/" + repository + "/manifests/1", Scope: auth.PullScope(repository), As: as,
	})
	if err != nil {
		t.Errorf("%s: %v", repository, err)
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func entryFor(d *dialect, user, password string) credential.Entry {
	return credential.Entry{Host: d.Host(), Username: user, Password: secret.New(password)}
}

func basicHeader(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestDialects(t *testing.T) {
	t.Parallel()
	for _, product := range registrytest.AllDialects() {
		t.Run(product.Name, func(t *testing.T) {
			t.Parallel()
			d := start(t, product)
			user, password := d.Login()
			reg := d.Registry.Name()

			t.Run("nobody in particular", func(t *testing.T) {
				c, _ := clientIn(t, d.World, credential.Config{}, d.trusts)
				if status := d.manifest(t, c, "public/app", auth.Anonymous); status != 200 {
					t.Errorf("public: %d, want 200", status)
				}
				if status := d.manifest(t, c, "private/app", auth.Anonymous); status != 401 && status != 403 {
					t.Errorf("private: %d, want a refusal", status)
				}
			})

			t.Run("the operator", func(t *testing.T) {
				logins := map[string]credential.Entry{"password": entryFor(d, user, password)}
				if d.Identity != "" {
					logins["identity token"] = entryFor(d, "<token>", d.Identity)
				}
				for kind, entry := range logins {
					c, log := clientIn(t, d.World, credential.Config{Entries: []credential.Entry{entry}}, d.trusts)
					d.Forget()
					for i := range 3 {
						if status := d.manifest(t, c, "private/app", auth.Central); status != 200 {
							t.Fatalf("%s, pull %d: %d, want 200\n%s", kind, i+1, status, log)
						}
					}
					// One request learns the challenge; after that each has what it needs at once.
					if n := d.Count("GET", "/manifests/1"); n != 4 {
						t.Errorf("%s: %d requests for three pulls, want 4", kind, n)
					}
					if c.Auth().Refused(t.Context(), reg, "private/app") {
						t.Errorf("%s: is said to be refused", kind)
					}
					if strings.Contains(log.String(), entry.Password.Reveal()) && len(entry.Password.Reveal()) > 4 {
						t.Errorf("%s: the log shows the secret", kind)
					}
				}
			})

			t.Run("the operator, wrongly", func(t *testing.T) {
				registry := prometheus.NewRegistry()
				c, log := clientIn(t, d.World, credential.Config{Entries: []credential.Entry{entryFor(d, user, canary)}}, func(c *upstream.Config) {
					d.trusts(c)
					c.Registerer = registry
				})
				d.Forget()
				for range 5 {
					if status := d.manifest(t, c, "private/app", auth.Central); status != 401 && status != 403 {
						t.Errorf("%d, want a refusal", status)
					}
				}
				if !c.Auth().HasCentral(reg) || !c.Auth().Refused(t.Context(), reg, "private/app") {
					t.Error("is not said to be refused")
				}
				shown := 0
				for _, r := range d.Requests() {
					if strings.Contains(r.Authorization(), "Basic") {
						shown++
					}
				}
				if n := strings.Count(log.String(), "configured login is refused"); shown > 1 || n != 1 {
					t.Errorf("the login was shown %d times and is named %d times in the log, want once each:\n%s", shown, n, log)
				}
				if status := d.manifest(t, c, "public/app", auth.Anonymous); status != 200 {
					t.Errorf("public, as nobody: %d, want 200", status)
				}
				if got := gathered(t, registry, "upstream_logins_refused"); got != "other 1" {
					t.Errorf("upstream_logins_refused: %s, want other 1", got)
				}
				if strings.Contains(log.String(), canary) {
					t.Error("the log shows the password")
				}
			})

			t.Run("a client's own", func(t *testing.T) {
				own := basicHeader(user, password)
				if d.Config.Login == registrytest.Bearer {
					own = "Bearer " + tokenOf(t, d, user, password)
				}
				c, _ := clientIn(t, d.World, credential.Config{}, d.trusts)
				if status := d.manifest(t, c, "private/app", auth.Own(secret.New(own))); status != 200 {
					t.Errorf("%d, want 200", status)
				}
				if status := d.manifest(t, c, "private/app", auth.Own(secret.New("Bearer wrong"))); status < 400 {
					t.Errorf("with a wrong token: %d, want a refusal", status)
				}
			})

			// What the dialects have in common is that a client that does the obvious thing fails: ask the realm that the
			// ping names with GET, for the scope that it names, and pull with what that gives.
			t.Run("a naive client", func(t *testing.T) {
				if status := naivePull(t, d, user, password); status == 200 {
					t.Error("pulls the private image")
				}
			})
		})
	}
}

// gathered are a metric's samples: the registry label and the value.
func gathered(t *testing.T, registry *prometheus.Registry, name string) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				out = append(out, fmt.Sprintf("%s %v", m.GetLabel()[0].GetValue(), m.GetGauge().GetValue()))
			}
		}
	}
	return strings.Join(out, ", ")
}

// tokenOf is a token that a client gets for itself, in whichever flow the service speaks.
func tokenOf(t *testing.T, d *dialect, user, password string) string {
	t.Helper()
	service := d.Config.Tokens.Service
	if service == "" && !d.Config.Tokens.NoService {
		service = d.Config.Name
	}
	path := d.Config.Tokens.Path
	if path == "" {
		path = "/token"
	}
	query := url.Values{"service": {service}, "scope": {"repository:private/app:pull"}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+d.TokenHost()+path+"?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(user, password)
	if d.Config.Tokens.GetStatus != 0 {
		query.Set("grant_type", "password")
		query.Set("username", user)
		query.Set("password", password)
		if req, err = http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+d.TokenHost()+path, strings.NewReader(query.Encode())); err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	status, body := roundTrip(t, d, req)
	token := readAnswer(t, body)
	if status != 200 || token == "" {
		t.Fatalf("token service of the client: %d %s", status, body)
	}
	return token
}

func readAnswer(t *testing.T, body []byte) string {
	t.Helper()
	var answer struct {
		Token       string
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if answer.Token != "" {
		return answer.Token
	}
	return answer.AccessToken
}

func roundTrip(t *testing.T, d *dialect, req *http.Request) (int, []byte) {
	t.Helper()
	resp, err := d.World.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func naivePull(t *testing.T, d *dialect, user, password string) int {
	t.Helper()
	ask := func(target, authorization string) (*http.Response, []byte) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		resp, err := d.World.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp, body
	}
	ping, _ := ask(d.URL()+"/v2/", "")
	fields := map[string]string{}
	for part := range strings.SplitSeq(strings.TrimPrefix(ping.Header.Get("WWW-Authenticate"), "Bearer "), ",") {
		name, value, _ := strings.Cut(part, "=")
		fields[name] = strings.Trim(value, `"`)
	}
	if fields["realm"] == "" {
		return ping.StatusCode
	}
	resp, body := ask(fields["realm"]+"?"+url.Values{"service": {fields["service"]}, "scope": {fields["scope"]}}.Encode(), basicHeader(user, password))
	if resp.StatusCode != 200 {
		return resp.StatusCode
	}
	resp, _ = ask(d.URL()+"/v2/private/app/manifests/1", "Bearer "+readAnswer(t, body))
	return resp.StatusCode
}

func find(t *testing.T, name string) registrytest.Dialect {
	t.Helper()
	for _, d := range registrytest.AllDialects() {
		if d.Name == name {
			return d
		}
	}
	t.Fatalf("no dialect %s", name)
	panic("unreachable")
}

// ECR's logins live for twelve hours. One that has expired is answered with a 403 that is no challenge; the helper that
// gave it has another one by then.
func TestLoginsOfAHelperExpire(t *testing.T) {
	t.Parallel()
	d := start(t, find(t, "ECR"))
	d.SetPassword("AWS", canary+"1")
	dir := t.TempDir()
	helper := filepath.Join(dir, "docker-credential-ecr-login")
	script := "#!/bin/sh\ncat >>" + dir + "/runs; echo >>" + dir + "/runs\n" + `echo "{\"ServerURL\":\"x\",\"Username\":\"AWS\",\"Secret\":\"$(cat ` + dir + `/secret)\"}"` + "\n"
	for path, content := range map[string]string{helper: script, dir + "/secret": canary + "1"} {
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	logins := credential.Config{Environ: []string{"PATH=" + dir + ":/usr/bin:/bin"}, Entries: []credential.Entry{{Host: d.Host(), Helper: "ecr-login"}}}
	set := credential.New(logins)
	c, log := clientIn(t, d.World, logins, func(c *upstream.Config) { c.Logins = set })
	runs := func() int {
		content, _ := os.ReadFile(dir + "/runs")
		return strings.Count(string(content), "\n")
	}
	for step := range 3 {
		for range 3 {
			if status := d.manifest(t, c, "private/app", auth.Central); status != 200 {
				t.Fatalf("step %d: %d, want 200\n%s", step, status, log)
			}
		}
		if runs() != step+1 {
			t.Errorf("step %d: %d runs of the helper, want one for each login", step, runs())
		}
		next := fmt.Sprintf("%s%d", canary, step+2)
		d.SetPassword("AWS", next)
		if err := os.WriteFile(dir+"/secret", []byte(next), 0o600); err != nil {
			t.Fatal(err)
		}
		set.Reload() // stands for the time since the helper was asked last
	}
	// While the helper still has the old one, the refusal stands, and is not asked about again and again.
	if err := os.WriteFile(dir+"/secret", []byte(canary+"3"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := runs()
	for range 10 {
		if status := d.manifest(t, c, "private/app", auth.Central); status != 403 && status != 401 {
			t.Errorf("with an outdated login: %d, want a refusal", status)
		}
	}
	if n := runs() - before; n > 2 {
		t.Errorf("%d runs of the helper for ten refusals, want one for the login and one for another", n)
	}
	if strings.Contains(log.String(), canary) {
		t.Error("the log shows a secret")
	}
}

// A login that was replaced before the registry is first asked is found out about within the same pull.
func TestLoginReplacedBeforeTheFirstPull(t *testing.T) {
	t.Parallel()
	for _, outdated := range []int{0, 403} { // htpasswd answers 401
		product := find(t, "ECR")
		product.Config.Tokens.OutdatedPassword = outdated
		d := start(t, product)
		path := filepath.Join(t.TempDir(), "password")
		write := func(password string) {
			t.Helper()
			d.SetPassword("AWS", password)
			if err := os.WriteFile(path, []byte(password), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(canary + "1")
		c, log := clientIn(t, d.World, credential.Config{Entries: []credential.Entry{{Host: d.Host(), Username: "AWS", PasswordFile: path}}}, d.trusts)
		write(canary + "2")
		if status := d.manifest(t, c, "private/app", auth.Central); status != 200 {
			t.Errorf("outdated passwords get %d: %d, want 200\n%s", outdated, status, log)
		}
	}
}

// Several teams share a registry, each with its own login.
func TestEachRepositoryHasItsLogin(t *testing.T) {
	t.Parallel()
	for _, login := range []registrytest.Login{registrytest.Basic, registrytest.Bearer} {
		d := start(t, registrytest.Dialect{Config: registrytest.Config{
			Login: login, Users: map[string]string{"a": "pa", "b": "pb", "rest": "pr"},
			Private: map[string][]string{"a/app": {"a"}, "b/app": {"b"}, "private/app": {"rest"}},
		}})
		for _, repository := range []string{"a/app", "b/app"} {
			d.PushImage(repository, "1", registrytest.Layer(1, 1<<10))
		}
		entry := func(repository, user string) credential.Entry {
			return credential.Entry{Host: d.Host(), Repository: repository, Username: user, Password: secret.New("p" + user[:1])}
		}
		c, log := clientIn(t, d.World, credential.Config{Entries: []credential.Entry{entry("", "rest"), entry("a", "a"), entry("b", "b")}}, func(c *upstream.Config) {
			c.Named = func(string) bool { return true }
		})
		for _, repository := range []string{"a/app", "b/app", "private/app", "a/app"} {
			if status := d.manifest(t, c, repository, auth.Central); status != 200 {
				t.Errorf("login %d, %s: %d, want 200\n%s", login, repository, status, log)
			}
		}
		for _, r := range d.Find(func(r registrytest.Request) bool { return strings.Contains(r.Path, "/a/app") && r.User != "" }) {
			if r.User != "a" {
				t.Errorf("login %d: a/app was asked for as %s", login, r.User)
			}
		}
	}
}

// A download that breaks after its token's life is resumed with a fresh one.
func TestATransferOutlivesItsToken(t *testing.T) {
	t.Parallel()
	d := start(t, find(t, "GitLab"))
	user, password := d.Login()
	blob := registrytest.Bytes(7, 1<<20)
	digest := d.PutBlob("private/app", blob)
	d.Set(func(f *registrytest.Faults) { f.Body.CutAfter, f.Body.Times = 1<<18, 1 })
	c, log := clientIn(t, d.World, credential.Config{Entries: []credential.Entry{entryFor(d, user, password)}}, d.trusts)
	fetch := func(header http.Header) (*http.Response, []byte, error) {
		resp, err := c.Do(t.Context(), upstream.Request{
			Method: http.MethodGet, Registry: d.Registry.Name(), Path: "/v2/private/app/blobs/" + string(digest), As: auth.Central, Header: header,
		})
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp, body, err
	}
	_, first, err := fetch(nil)
	if err == nil || len(first) == 0 || len(first) >= len(blob) {
		t.Fatalf("%d bytes, %v, want a break in the middle", len(first), err)
	}
	d.RevokeTokens()
	resp, rest, err := fetch(http.Header{"Range": {fmt.Sprintf("bytes=%d-", len(first))}})
	if err != nil || resp.StatusCode != http.StatusPartialContent || !bytes.Equal(append(first, rest...), blob) {
		t.Errorf("resumed: %d, %d bytes, %v, want the rest", resp.StatusCode, len(rest), err)
	}
	if n := d.Count("GET", "/jwt/auth"); n != 2 {
		t.Errorf("%d tokens, want 2", n)
	}
}

// A token service may send on within itself. What it sends elsewhere is not followed, with a login or without.
func TestRedirectsOfATokenService(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"password", "identity token", "nobody"} {
		w := registrytest.NewWorld(t)
		var seen lines
		record := http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			body, _ := io.ReadAll(req.Body)
			fmt.Fprintf(&seen, "%s %v %s\n", req.RequestURI, req.Header, body)
			_, _ = io.WriteString(rw, `{"token":"stolen","expires_in":300}`)
		})
		evil, sibling := w.Site("evil.test", record), w.Site("sibling.example.test", record)
		for _, location := range []string{
			"https://" + evil + "/token", "http://" + evil + "/token", "//" + evil + "/token", "https://" + sibling + "/token",
			"https://reg.example.test@" + evil + "/", "https://user:pass@auth.reg.example.test/token", "https://auth.reg.example.test:1/token", "http://auth.reg.example.test/token",
			"\\\\" + evil + "/token", "javascript:alert(1)", "https://",
		} {
			d := start(t, registrytest.Dialect{Config: registrytest.Config{World: w, Name: "reg.example.test", Login: registrytest.Bearer, Tokens: registrytest.Tokens{Location: location}}})
			entry := entryFor(d, "user", canary)
			if kind == "identity token" {
				entry.Username = "<token>"
			}
			c, log := clientIn(t, w, credential.Config{Entries: []credential.Entry{entry}}, func(c *upstream.Config) { c.Named = func(string) bool { return true } })
			as := auth.Central
			if kind == "nobody" {
				as = auth.Anonymous
			}
			if status := d.manifest(t, c, "private/app", as); status != 401 {
				t.Errorf("%s, %s: %d, want the registry's own 401", kind, location, status)
			}
			if strings.Contains(log.String(), canary) {
				t.Errorf("%s, %s: the log shows the secret", kind, location)
			}
		}
		if seen.String() != "" {
			t.Errorf("%s: a redirect was followed: %s", kind, &seen)
		}
	}
}

// A realm that is not the registry's gets nothing of ours over real sockets either, and an address of a private network
// is not even asked.
func TestRealmsOfStrangers(t *testing.T) {
	t.Parallel()
	w := registrytest.NewWorld(t)
	var seen lines
	evil := w.Site("evil.test", http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		fmt.Fprintf(&seen, "%s %v\n", req.Host, req.Header)
		_, _ = io.WriteString(rw, `{"token":"stolen","expires_in":300}`)
	}))
	victim := start(t, registrytest.Dialect{Config: registrytest.Config{World: w, Name: "victim.test", TokenName: "auth.victim.test", Login: registrytest.Bearer, Users: map[string]string{"user": canary}}})
	at := w.HostMap()["evil.test"]
	for _, realm := range []string{
		"https://" + evil + "/token", "https://reg.test@" + evil + "/token", "https://" + evil + "#@reg.test/token", "http://" + evil + "/token",
		"https://" + at.String() + "/token", "https://[::ffff:" + at.Addr().String() + "]:" + fmt.Sprint(at.Port()) + "/token",
		"https://" + victim.TokenHost() + "/token", "https://" + victim.Host() + "/token", "https://169.254.169.254/token", "https://10.0.0.1/token",
		"https://localhost:" + fmt.Sprint(at.Port()) + "/token", "https://127.1:" + fmt.Sprint(at.Port()) + "/token",
	} {
		d := start(t, registrytest.Dialect{Config: registrytest.Config{World: w, Name: "reg.test", Login: registrytest.Bearer, Tokens: registrytest.Tokens{Realm: realm, NoAnonymous: true}}})
		logins := credential.Config{Entries: []credential.Entry{entryFor(d, "user", canary), entryFor(victim, "user", canary)}}
		c, log := clientIn(t, w, logins, func(c *upstream.Config) { c.Named = func(string) bool { return true } })
		if status := d.manifest(t, c, "private/app", auth.Central); status != 401 {
			t.Errorf("%s: %d, want the registry's own 401", realm, status)
		}
		if seen.String() != "" || len(victim.Requests()) != 0 {
			t.Errorf("%s: asked: %s %q", realm, &seen, registrytest.Paths(victim.Requests()))
			return
		}
		if strings.Contains(log.String(), canary) {
			t.Errorf("%s: the log shows the secret", realm)
		}
		if !c.Auth().Refused(t.Context(), d.Registry.Name(), "private/app") {
			t.Errorf("%s: the login is said to be of use", realm)
		}
	}
	// As nobody, a private address is not asked either.
	d := start(t, registrytest.Dialect{Config: registrytest.Config{World: w, Name: "reg.test", Login: registrytest.Bearer, Tokens: registrytest.Tokens{Realm: "https://" + at.String() + "/token"}}})
	c, _ := clientIn(t, w, credential.Config{}, nil)
	if status := d.manifest(t, c, "private/app", auth.Anonymous); status != 401 || seen.String() != "" {
		t.Errorf("as nobody: %d after %s, want 401 after nothing", status, &seen)
	}
}

// A client that asks an intercepted token service for a token, without a login, gets one of the operator's that pulls.
func TestTokensForClients(t *testing.T) {
	t.Parallel()
	for _, product := range registrytest.AllDialects() {
		if product.Config.Login != registrytest.Bearer {
			continue
		}
		t.Run(product.Name, func(t *testing.T) {
			t.Parallel()
			d := start(t, product)
			user, password := d.Login()
			c, log := clientIn(t, d.World, credential.Config{Entries: []credential.Entry{entryFor(d, user, password)}}, d.trusts)
			if status := d.manifest(t, c, "private/app", auth.Central); status != 200 {
				t.Fatalf("%d, want 200\n%s", status, log)
			}
			host, err := oci.ParseRegistry(d.TokenHost())
			if err != nil {
				t.Fatal(err)
			}
			path := d.Config.Tokens.Path
			if path == "" {
				path = "/token"
			}
			ask := func(query string) *http.Response {
				return c.Auth().ClientToken(t.Context(), host, httptest.NewRequest(http.MethodGet, path+"?"+query, nil), func(oci.Registry, string) bool { return true })
			}
			resp := ask("scope=repository%3Aprivate%2Fapp%3Apush%2Cpull&offline_token=true&account=x")
			if resp == nil {
				t.Fatalf("no token\n%s", log)
			}
			body, _ := io.ReadAll(resp.Body)
			if strings.Contains(string(body), "refresh") {
				t.Errorf("the client is given a refresh token: %s", body)
			}
			token := readAnswer(t, body)
			for method, want := range map[string]int{http.MethodGet: 200, http.MethodPut: 401} {
				req, err := http.NewRequestWithContext(t.Context(), method, d.URL()+"/v2/private/app/manifests/1", strings.NewReader("{}"))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+token)
				if status, _ := roundTrip(t, d, req); status != want {
					t.Errorf("the client's token: %s gives %d, want %d", method, status, want)
				}
			}
			if ask("scope=repository%3Aprivate%2Fapp%3Apush") != nil || ask("scope=registry%3Acatalog%3A*") != nil || ask("") != nil {
				t.Error("a token was made for something else than pulling")
			}
			if strings.Contains(log.String(), token) {
				t.Error("the log shows the token")
			}
		})
	}
}
