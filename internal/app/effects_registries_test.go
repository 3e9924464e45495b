package app_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
	"container-registry-proxy/test/lack"
)

// portOf is the port of an authority.
func portOf(t testing.TB, authority string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(authority)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// usualPort is 443, or the end of a test where this process may not listen there: what is configured without a port
// cannot be tried on another one.
func usualPort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:443")
	if os.IsPermission(err) {
		lack.Of(t, "the right to listen on port 443, as its registries do")
	}
	if err == nil {
		_ = l.Close()
	}
	return 443
}

func effectRegistries(t *testing.T) {
	world := registrytest.NewWorld(t)
	exact := registrytest.New(t, registrytest.Config{World: world, Name: "registry.test"})
	port := portOf(t, exact.Host())
	for _, name := range []string{"corp.test", "a.corp.test", "b.a.corp.test", "evilcorp.test", "dotted.test", "sub.dotted.test", "tail.one.test", "tail.two.test"} {
		registrytest.New(t, registrytest.Config{World: world, Name: name, Port: port})
	}
	other := registrytest.New(t, registrytest.Config{World: world, Name: "registry.test.other.test"})
	p := fmt.Sprint(":", port)
	h := start(t, world, "REGISTRIES=registry.test"+p+" *.corp.test"+p+" .dotted.test"+p+" tail.*"+p)
	for authority, want := range map[string]bool{
		"registry.test" + p: true, "REGISTRY.test" + p: true,
		"corp.test" + p: false, "a.corp.test" + p: true, "b.a.corp.test" + p: true, "evilcorp.test" + p: false,
		"dotted.test" + p: true, "sub.dotted.test" + p: true,
		"tail.one.test" + p: true, "tail.two.test" + p: true,
		other.Host():         false,
		"auth.docker.io:443": true, "registry-1.docker.io:443": true, "docker.io:443": true, "index.docker.io:443": true,
	} {
		if got := h.intercepts(authority); got != want {
			t.Errorf("CONNECT %s: intercepted = %v, want %v", authority, got, want)
		}
	}
	exact.PushImage("app", "1", layers(1, 1, 1000)...)
	h.pull(exact, "app", "1").wantOutcomes(t, "MISS", "MISS")

	none := start(t, world, "REGISTRIES=")
	if none.intercepts(exact.Host()) {
		t.Error("REGISTRIES= still intercepts another registry than Docker Hub")
	}
	if !none.intercepts("registry-1.docker.io:443") {
		t.Error("REGISTRIES= does not intercept Docker Hub")
	}
}

// effectAuthRegistries has the three ways that an entry is of use: for a registry that wants a login, for one that wants
// a token, and for the token service in its stead. No client logs in.
func effectAuthRegistries(t *testing.T) {
	world := registrytest.NewWorld(t)
	const password = "pass:word;with spaces "
	users, private := map[string]string{"robot": password}, map[string][]string{"app": {"robot"}}
	basic := registrytest.New(t, registrytest.Config{World: world, Name: "basic.test", Login: registrytest.Basic, Users: users})
	bearer := registrytest.New(t, registrytest.Config{World: world, Name: "bearer.test", Login: registrytest.Bearer, Users: users, Private: private})
	h := start(t, world, "REGISTRIES="+basic.Host()+" "+bearer.TokenHost(),
		"AUTH_REGISTRIES_DELIMITER=%%", "AUTH_REGISTRY_DELIMITER=|",
		"AUTH_REGISTRIES="+basic.Host()+"|robot|"+password+"%%"+bearer.Host()+"|robot|"+password)
	h.pullsAs(basic, "robot")
	h.pullsAs(bearer, "robot")
	for _, r := range bearer.To("bearer.test") {
		if strings.HasPrefix(r.Authorization(), "Basic ") {
			t.Errorf("%s %s%s: the login goes to the registry, want it at the token service alone", r.Method, r.Host, r.Path)
		}
	}
	without := start(t, world, "REGISTRIES="+basic.Host())
	without.ask("GET", basic.URL()+"/v2/app/manifests/1").expect(t, 401, "UNAUTHORIZED")

	// As in the originals' example for GitLab: its main host is the token service of its registry.
	port := usualPort(t)
	git := registrytest.New(t, registrytest.Config{
		World: world, Name: "reg.git.test", Port: port, TokenName: "git.test", TokenPort: port, Login: registrytest.Bearer, Users: users, Private: private,
	})
	h = start(t, world, "REGISTRIES=reg.git.test", "AUTH_REGISTRIES_DELIMITER=%%", "AUTH_REGISTRIES=git.test:robot:"+password)
	h.pullsAs(git, "robot")
	for _, r := range git.To("reg.git.test") {
		if strings.HasPrefix(r.Authorization(), "Basic ") {
			t.Errorf("%s %s%s: the login of the token service goes to the registry", r.Method, r.Host, r.Path)
		}
	}
}

// pullsAs has a client without a login do what dockerd does, and the registry let it in as user.
func (h *house) pullsAs(reg *registrytest.Registry, user string) {
	h.t.Helper()
	reg.PushImage("app", "1", []byte("what only "+reg.Host()+" has"))
	if a := h.ask("GET", reg.URL()+"/v2/"); a.status != 200 {
		h.t.Errorf("the ping of %s = %d %q, want 200: no client is to look for a login", reg.Host(), a.status, a.body)
	}
	h.pull(reg, "app", "1").wantOutcomes(h.t, "MISS", "MISS")
	if log := reg.Find(func(r registrytest.Request) bool { return r.User == user && r.Status == 200 }); len(log) == 0 {
		h.t.Errorf("%s let nobody in as %s", reg.Host(), user)
	}
}

// effectEntryDelimiter: a key of Google's holds spaces, colons and line ends, and arrives as it is.
func effectEntryDelimiter(t *testing.T) {
	key := "{\n  \"type\": \"service_account\", \"key\": \"-----BEGIN PRIVATE KEY-----\\nMIIE:;==\\n\",\n  \"uri\": \"https://accounts.test/o/oauth2\"\n}"
	world := registrytest.NewWorld(t)
	gcr := registrytest.New(t, registrytest.Config{World: world, Name: "gcr.test", Login: registrytest.Basic, Users: map[string]string{"_json_key": key}})
	quay := registrytest.New(t, registrytest.Config{World: world, Name: "quay.test", Login: registrytest.Basic, Users: map[string]string{"robot": "secret"}})
	h := start(t, world, "REGISTRIES=", "AUTH_REGISTRIES_DELIMITER=;;;", "AUTH_REGISTRY_DELIMITER=:::",
		"AUTH_REGISTRIES="+gcr.Host()+":::_json_key:::"+key+";;;"+quay.Host()+":::robot:::secret")
	for reg, want := range map[*registrytest.Registry]string{gcr: key, quay: "secret"} {
		reg.PushImage("app", "1", layers(1, 1, 1000)...)
		h.pull(reg, "app", "1")
		for _, r := range reg.Find(func(r registrytest.Request) bool { return r.Authorization() != "" }) {
			if _, password, _ := (&http.Request{Header: r.Header}).BasicAuth(); password != want {
				t.Errorf("%s got the password %q, want %q byte for byte", reg.Host(), password, want)
			}
		}
	}
}

// effectPartDelimiter is the form that most people write, with no delimiter set: host:user:password between spaces.
func effectPartDelimiter(t *testing.T) {
	port := usualPort(t)
	world := registrytest.NewWorld(t)
	var entries []string
	var registries []*registrytest.Registry
	for _, name := range []string{"one.test", "two.test"} {
		reg := registrytest.New(t, registrytest.Config{World: world, Name: name, Port: port, Login: registrytest.Basic, Users: map[string]string{"robot": "a:b:" + name}})
		reg.PushImage("app", "1", layers(1, 1, 1000)...)
		entries = append(entries, name+":robot:a:b:"+name)
		registries = append(registries, reg)
	}
	h := start(t, world, "REGISTRIES=", "AUTH_REGISTRIES="+strings.Join(entries, " "))
	for _, reg := range registries {
		h.pull(reg, "app", "1")
	}
}

// effectTokenServices: on another domain than its registry, a token service is trusted by this setting alone.
func effectTokenServices(t *testing.T) {
	world := registrytest.NewWorld(t)
	reg := registrytest.New(t, registrytest.Config{
		World: world, Name: "reg.corp.test", TokenName: "login.elsewhere.test", Login: registrytest.Bearer,
		Users: map[string]string{"robot": "secret"}, Private: map[string][]string{"app": {"robot"}},
	})
	reg.PushImage("app", "1", layers(1, 1, 1000)...)
	path := filepath.Join(t.TempDir(), "proxy.yaml")
	write(t, map[string]string{path: "token_services:\n  " + reg.Host() + ": [login.elsewhere.test]\n"})
	environ := []string{"REGISTRIES=" + reg.Host() + " " + reg.TokenHost(), "AUTH_REGISTRY_DELIMITER=|", "AUTH_REGISTRIES=" + reg.Host() + "|robot|secret"}

	strange := start(t, world, environ...)
	if got := strange.ask("GET", reg.URL()+"/v2/app/manifests/1").status; got < 400 {
		t.Errorf("a pull without token_services = %d, want a refusal", got)
	}
	for _, r := range reg.To("login.elsewhere.test") {
		if r.Authorization() != "" {
			t.Error("a token service on another domain got a credential without token_services")
		}
	}
	paired := start(t, world, append(environ, "CONFIG_FILE="+path)...)
	paired.pull(reg, "app", "1")
}

// effectAllowOwnAuth is what the setting does as yet: it is said that it does nothing.
// privateHub is a registry with what is dev's and what is the operator's.
func privateHub(t *testing.T) (reg *registrytest.Registry, environ []string) {
	reg = registrytest.New(t, registrytest.Config{
		Login: registrytest.Basic, Users: map[string]string{"central": "c", "dev": "d"},
		Private: map[string][]string{"dev/app": {"dev"}, "central/app": {"central"}},
	})
	for _, name := range []string{"dev/app", "central/app"} {
		reg.PushImage(name, "1", layers(1, 1, 1000)...)
	}
	return reg, []string{"REGISTRIES=" + reg.Host(), "AUTH_REGISTRY_DELIMITER=|", "AUTH_REGISTRIES=" + reg.Host() + "|central|c"}
}

// effectAllowOwnAuth: whose login opens what, and what a client without one is told.
func effectAllowOwnAuth(t *testing.T) {
	reg, environ := privateHub(t)
	for _, on := range []bool{false, true} {
		h := start(t, reg.World, append(environ, fmt.Sprint("ALLOW_OWN_AUTH=", on))...)
		ping, own := 200, 403
		if on {
			ping, own = 401, 200
		}
		h.ask("GET", reg.URL()+"/v2/").expect(t, ping)
		h.ask("GET", reg.URL()+"/v2/dev/app/manifests/1", "Authorization", login("dev", "d")).expect(t, own)
		h.ask("GET", reg.URL()+"/v2/central/app/manifests/1", "Authorization", login("dev", "d")).expect(t, 200)
		h.ask("GET", reg.URL()+"/v2/dev/app/manifests/1").expect(t, 403)
	}
}

// effectAllowPushWithOwnAuth: refused, or passed where a login comes along.
func effectAllowPushWithOwnAuth(t *testing.T) {
	reg, environ := privateHub(t)
	push := reg.URL() + "/v2/dev/app/blobs/uploads/"
	off := start(t, reg.World, environ...)
	off.send("POST", push, nil, "Authorization", login("dev", "d")).expect(t, 405, "ALLOW_PUSH_WITH_OWN_AUTH=true")
	on := start(t, reg.World, append(environ, "ALLOW_PUSH_WITH_OWN_AUTH=true")...)
	on.send("POST", push, nil, "Authorization", login("dev", "d")).expect(t, 202)
	reg.Forget()
	if a := on.send("POST", push, nil).expect(t, 401, "UNAUTHORIZED"); !strings.HasPrefix(a.header.Get("Www-Authenticate"), "Basic") {
		t.Errorf("a push without a login gets %v, want the registry's challenge", a.header)
	}
	if n := reg.Count("POST", ""); n != 0 {
		t.Errorf("%d pushes without a login reached the registry", n)
	}
}

// write makes files, and the directories that they are in, with modes that suit secrets.
func write(t testing.TB, files map[string]string) {
	t.Helper()
	for path, content := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// effectAuthConfigFile takes what "docker login" has left.
func effectAuthConfigFile(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{Login: registrytest.Basic, Users: map[string]string{"robot": "secret"}})
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, map[string]string{path: fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, reg.Host(), strings.TrimPrefix(login("robot", "secret"), "Basic "))})
	start(t, reg.World, "REGISTRIES="+reg.Host(), "AUTH_CONFIG_FILE="+path).pullsAs(reg, "robot")
}

// effectCredentials has a login for one repository and one for all others.
func effectCredentials(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{
		Login: registrytest.Basic, Users: map[string]string{"robot": "secret", "acme": "other"},
		Private: map[string][]string{"app": {"robot"}, "acme/app": {"acme"}},
	})
	dir := t.TempDir()
	write(t, map[string]string{
		filepath.Join(dir, "robot"): "secret\n", filepath.Join(dir, "acme"): "other\n",
		filepath.Join(dir, "proxy.yaml"): `
credentials:
  - {registry: "` + reg.Host() + `", username: robot, password_file: robot}
  - {registry: "` + reg.Host() + `", repository: acme, username: acme, password_file: acme}
`})
	h := start(t, reg.World, "REGISTRIES=", "CONFIG_FILE="+filepath.Join(dir, "proxy.yaml"))
	h.pullsAs(reg, "robot")
	reg.PushImage("acme/app", "1", layers(2, 1, 1000)...)
	h.pull(reg, "acme/app", "1")
	for _, r := range reg.Find(func(r registrytest.Request) bool { return strings.HasPrefix(r.Path, "/v2/acme/app/") && r.Status < 300 }) {
		if r.User != "acme" {
			t.Errorf("%s %s was let in as %q, want the login of that repository", r.Method, r.Path, r.User)
		}
	}
}
