package credential_test

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

// eventually waits until ok holds, and ends the test if it does not within half a minute.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing changed within 30 s")
		}
	}
}

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestConfigFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, `{
		"auths": {
			"https://index.docker.io/v1/": {"auth": "`+encode("hubuser:hub:pw")+`"},
			"quay.io": {"auth": "`+encode("quser:qpw")+`", "email": "x@y"},
			"quay.io/acme": {"auth": "`+encode("acme:apw")+`"},
			"quay.io/acme/team/": {"username": "team", "password": "tpw"},
			"scoped.test/team": {"auth": "`+encode("scoped:spw")+`"},
			"http://legacy.test/v1/": {"auth": "`+encode("legacy:lpw")+`"},
			"port.test:5000": {"auth": "`+strings.TrimRight(encode("port:ppw1"), "=")+`"},
			"example.azurecr.io": {"auth": "`+encode("00000000-0000-0000-0000-000000000000:")+`", "identitytoken": "idt"},
			"ready.test": {"registrytoken": "rdy"},
			"angle.test": {"username": "<token>", "password": "idt2"},
			"nul.test": {"auth": "`+encode("nul:pw\x00\x00")+`"},
			"empty.test": {},
			"bad base64.test": {"auth": "`+encode("u:"+canary)+`"},
			"notbase64.test": {"auth": "`+canary+`!"},
			"nocolon.test": {"auth": "`+encode(canary)+`"},
			"colon.test": {"username": "a:b", "password": "`+canary+`"},
			"number.test": 7,
			"upper.test/UPPER": {"auth": "`+encode("u:"+canary)+`"}
		},
		"credHelpers": {"evil.test": "../../bin/sh", "scoped.test/x": "fine"},
		"HttpHeaders": {"User-Agent": "x"}, "psFormat": "x", "proxies": {"default": {}}
	}`)
	l, log := open(t, credential.Config{Entries: []credential.Entry{{ConfigFile: path, Name: "docker"}}})
	for _, tt := range []struct {
		host       oci.Registry
		repository string
		want       string
	}{
		{oci.DockerHub, "library/alpine", "password hubuser:hub:pw"},
		{"quay.io", "other", "password quser:qpw"}, {"quay.io", "acme/app", "password acme:apw"}, {"quay.io", "acme/team/x", "password team:tpw"},
		{"scoped.test", "team", "password scoped:spw"},
		{"scoped.test", "", "none"}, {"scoped.test", "teams/app", "none"}, // the login of one team is not the host's
		{"legacy.test", "a", "password legacy:lpw"}, {"http://legacy.test", "a", "none"},
		{"port.test:5000", "a", "password port:ppw1"}, {"port.test", "a", "none"},
		{"example.azurecr.io", "a", "identity 00000000-0000-0000-0000-000000000000:idt"},
		{"ready.test", "a", "ready :rdy"}, {"angle.test", "a", "identity <token>:idt2"}, {"nul.test", "a", "password nul:pw"},
		{"empty.test", "a", "none"}, {"notbase64.test", "a", "none"}, {"nocolon.test", "a", "none"}, {"colon.test", "a", "none"},
		{"number.test", "a", "none"}, {"upper.test", "a", "none"}, {"evil.test", "a", "none"}, {"unknown.test", "a", "none"},
	} {
		if got := show(t, l, tt.host, tt.repository); got != tt.want {
			t.Errorf("%s %q: %s, want %s", tt.host, tt.repository, got, tt.want)
		}
		if got := l.Has(t.Context(), tt.host, tt.repository); got != (tt.want != "none") {
			t.Errorf("Has(%s, %q) = %v", tt.host, tt.repository, got)
		}
	}
	if !strings.Contains(log.String(), "count=8") {
		t.Errorf("the log does not say that 8 are not understood:\n%s", log)
	}
	if len(l.Hosts()) != 0 {
		t.Errorf("hosts %v, want none: no entry names one", l.Hosts())
	}
}

// An entry may take one registry's login out of a config.json, even for plain HTTP, and for some repositories alone.
func TestConfigFileForOneRegistry(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, `{"auths": {"a.test:5000": {"auth": "`+encode("a:pw")+`"}, "b.test": {"auth": "`+encode("b:pw")+`"}}}`)
	l, _ := open(t, credential.Config{Entries: []credential.Entry{
		{Host: "http://a.test:5000", ConfigFile: path, Name: "one"}, {Host: "c.test", ConfigFile: path, Name: "two"},
		{Host: "b.test", Repository: "acme", ConfigFile: path, Name: "three"},
	}})
	for _, tt := range []struct {
		host             oci.Registry
		repository, want string
	}{
		{"http://a.test:5000", "x", "password a:pw"}, {"a.test:5000", "x", "none"},
		{"b.test", "acme/x", "password b:pw"}, {"b.test", "x", "none"},
		{"c.test", "x", "error: two: holds no login for c.test"},
	} {
		if got := show(t, l, tt.host, tt.repository); got != tt.want {
			t.Errorf("%s %q: %s, want %s", tt.host, tt.repository, got, tt.want)
		}
	}
}

// Of entries and a config.json the closest counts, and of two alike the first.
func TestConfigFileAmongOthers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, `{"auths": {"quay.io": {"auth": "`+encode("file:pw")+`"}, "quay.io/acme": {"auth": "`+encode("fileacme:pw")+`"}}}`)
	l, _ := open(t, credential.Config{Entries: []credential.Entry{fixed("quay.io", "", "entry"), fixed("quay.io", "acme/team", "team"), {ConfigFile: path}}})
	for repository, want := range map[string]string{"x": "entry", "acme/x": "fileacme", "acme/team": "team"} {
		if got := show(t, l, "quay.io", repository); got != "password "+want+":pw" {
			t.Errorf("%s: %s, want %s", repository, got, want)
		}
	}
}

func TestConfigFileIsReadAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.json")
	l, log := open(t, credential.Config{Entries: []credential.Entry{{ConfigFile: path, Name: "docker"}}})
	step := func(what, content, want string) {
		t.Helper()
		if content == "" {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		} else {
			write(t, path, content)
		}
		l.Reload()
		if got := show(t, l, "a.test", "x"); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	step("before it is there", "", "none")
	step("once it is there", `{"auths":{"a.test":{"auth":"`+encode("u:"+canary+"1")+`"}}}`, "password u:"+canary+"1")
	step("half written", `{"auths":{"a.test":{"auth":"`+encode("u:" + canary + "2")[:8], "password u:"+canary+"1")
	step("written", `{"auths":{"a.test":{"auth":"`+encode("u:"+canary+"2")+`"}}}`, "password u:"+canary+"2")
	step("logged out", `{"auths":{}}`, "none")
	step("too large", `{"x":"`+strings.Repeat("x", 1<<20)+`"}`, "none")
	step("back", `{"auths":{"a.test":{"auth":"`+encode("u:"+canary+"3")+`"}}}`, "password u:"+canary+"3")
	step("gone", "", "none")
	if n := strings.Count(log.String(), "cannot be had"); n != 4 {
		t.Errorf("%d failures are logged, want 4:\n%s", n, log)
	}
}

// Whatever a config.json holds, it yields logins for hosts as they are written, or nothing, and no error quotes it.
func FuzzConfigFile(f *testing.F) {
	for _, s := range []string{`{"auths":{"a.test":{"auth":"` + encode("u:p") + `"}}}`, `{"auths":{"a.test/b":{"identitytoken":"x"}},"credsStore":"x","credHelpers":{"a.test":"y"}}`, `[]`, `{"auths":null}`, `{"auths":{"a.test":null}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		err := credential.CheckConfigFile(content)
		if err != nil && err.Error() != "is not the JSON of a config.json of Docker's" {
			t.Fatalf("err = %v", err)
		}
		for _, host := range []oci.Registry{"a.test", oci.DockerHub} {
			login, found := credential.ConfigLogin(content, host, "b/c")
			if found && (login.Secret.Empty() || strings.Contains(login.Username, ":")) {
				t.Fatalf("%q gives %+v for %s", content, login, host)
			}
		}
	})
}

func TestLoginsAreNotPrinted(t *testing.T) {
	t.Parallel()
	login := credential.Login{Username: "u", Secret: secret.New(canary)}
	entry := credential.Entry{Host: "a.test", Username: "u", Password: secret.New(canary)}
	if login.Basic().Reveal() != "Basic "+encode("u:"+canary) {
		t.Errorf("Basic() is not the login")
	}
	for _, text := range []string{sprint(login), sprint(entry), sprint(login.Basic()), sprint(&login)} {
		if strings.Contains(text, canary) || strings.Contains(text, encode("u:"+canary)) {
			t.Errorf("printed: %s", text)
		}
	}
}

func TestKeysTellLoginsApart(t *testing.T) {
	t.Parallel()
	seen := map[secret.Key]credential.Login{}
	for _, l := range []credential.Login{
		{Username: "a", Secret: secret.New("b")}, {Username: "a:", Secret: secret.New("b")}, {Username: "a", Secret: secret.New(":b")}, {Username: `a"`, Secret: secret.New("b")},
		{Secret: secret.New("a:b")}, {Kind: credential.Identity, Username: "a", Secret: secret.New("b")}, {Kind: credential.Ready, Username: "a", Secret: secret.New("b")},
	} {
		if other, twice := seen[l.Key()]; twice {
			t.Errorf("%q:%q and %q:%q have one key", l.Username, l.Secret.Reveal(), other.Username, other.Secret.Reveal())
		}
		seen[l.Key()] = l
	}
	a, b := credential.Login{Secret: secret.New("x"), Source: "one"}, credential.Login{Secret: secret.New("x"), Source: "two"}
	if !a.Same(b) || a.Key() != b.Key() {
		t.Error("the source is part of the login")
	}
}
