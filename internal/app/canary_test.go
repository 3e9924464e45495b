package app_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// The canaries: each is a secret that may be seen in one place alone.
const (
	canaryCentral = "canary-central-5f2a" // the operator's password for the good registry, and its token service
	canaryEvil    = "canary-evil-91bc"    // the operator's password for the evil one
	canaryOwn     = "canary-own-77de"     // a client's password for its own registry
	canaryBearer  = "canary-bearer-c04a"  // a client's token for that registry
	canaryProxy   = "canary-proxy-e8f1"   // a client's password for the proxy
	canaryFile    = "canary-file-3d60"    // the operator's, out of a file of its own
	canaryConfig  = "canary-config-a8b4"  // the operator's, out of a config.json of Docker's
	canaryHelper  = "canary-helper-6e19"  // the operator's, from a credential helper
	canarySpilt   = "canary-spilt-d2c7"   // what a helper in trouble prints
)

var canaries = []string{canaryCentral, canaryEvil, canaryOwn, canaryBearer, canaryProxy, canaryFile, canaryConfig, canaryHelper, canarySpilt}

// spellings of a canary: as it is, and in the middle of a Basic header with any user name before it.
func spellings(canary string) []string {
	all := []string{canary}
	for pad := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", pad) + canary))
		all = append(all, encoded[4:len(encoded)-4])
	}
	return all
}

func holds(text []byte, canary string) bool {
	for _, spelling := range spellings(canary) {
		if bytes.Contains(text, []byte(spelling)) {
			return true
		}
	}
	return false
}

// ears is a host that remembers everything that it is told.
type ears struct {
	mu    sync.Mutex
	heard bytes.Buffer
}

func (e *ears) listen(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		dump, _ := httputil.DumpRequest(r, true)
		e.mu.Lock()
		e.heard.Write(dump)
		e.mu.Unlock()
		next(w, r)
	}
}

// mustNotHear fails the test if the host was told a canary other than its own.
func (e *ears) mustNotHear(t *testing.T, name, own string) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, canary := range canaries {
		if canary != own && holds(e.heard.Bytes(), canary) {
			t.Errorf("%s was told %s", name, canary)
		}
	}
}

// keep has the operator keep a login for each of three registries in another kind of place, and one for a fourth with a
// helper that fails. It returns the configuration file, and a file with what there was to see of the helpers' processes:
// their command lines and that of their parent, and their environment.
func keep(t *testing.T, inFile, inConfig, fromHelper, fromBroken *registrytest.Registry) (configuration, processes string) {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	const look = "{ tr '\\0' ' ' </proc/$$/cmdline; tr '\\0' ' ' </proc/$PPID/cmdline; env; } >>"
	write(t, map[string]string{
		in("password"):    canaryFile + "\n",
		in("config.json"): `{"auths": {"` + inConfig.Host() + `": {"auth": "` + base64.StdEncoding.EncodeToString([]byte("robot:"+canaryConfig)) + `"}}}`,
		in("good"):        "#!/bin/sh\n" + look + in("processes") + "\necho '" + `{"Username": "robot", "Secret": "` + canaryHelper + `"}` + "'\n",
		in("broken"):      "#!/bin/sh\n" + look + in("processes") + "\necho " + canarySpilt + "\necho " + canarySpilt + " >&2\nexit 1\n",
		in("config.yaml"): "credentials:\n  - {registry: \"" + inFile.Host() + "\", username: robot, password_file: " + in("password") + "}\n  - {config_file: " + in("config.json") + "}\n" +
			"  - {registry: \"" + fromHelper.Host() + "\", helper: " + in("good") + "}\n  - {registry: \"" + fromBroken.Host() + "\", helper: " + in("broken") + "}\n",
	})
	for _, helper := range []string{"good", "broken"} {
		if err := os.Chmod(in(helper), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return in("config.yaml"), in("processes")
}

// realms are what a hostile registry may name as its token service. %[1]s is a trap, %[2]s the good registry's token
// service, %[3]s the hostile registry itself, each as name:port.
var realms = []string{
	"https://%[1]s/token", "http://%[1]s/token", "//%[1]s/token", "https://%[1]s", "HTTPS://%[1]s/token", "https://%[2]s@%[1]s/token",
	"https://%[1]s#@%[2]s/token", "https://%[1]s\\@%[2]s/token", "https://%[2]s.%[1]s/token", "https://%[1]s/?https://%[2]s", "https://user:pw@%[1]s/token",
	"https://%[3]s@%[1]s/token", "https://%[3]s:443@%[1]s/", "https://%[3]s%%2f@%[1]s/", "https://%[3]s.%[1]s/", "http://%[3]s/token", "http://%[2]s/token",
	"https://%[2]s/token", "https://%[2]s/token?service=other", "https://%[2]s:1/token", "https://127.0.0.1/token", "https://[::1]/token", "https://2130706433/token",
	"https://169.254.169.254/latest", "http://169.254.169.254/latest", "https://0x7f.1/token", "https://localhost/token", "https://localhost./token",
	"ftp://%[1]s/token", "file:///etc/passwd", "javascript:alert(1)", "/token", "token", "?", "", " https://%[1]s/token", "https://%[1]s /token",
	"https://%[1]s\t/token", "https://%[1]s%%00/token", "https:///%[1]s/token", "https:%[1]s/token", "https://%[1]s;%[2]s/token", "https://%[1]s,https://%[2]s/token",
	"https://%[1]s?realm=https://%[3]s/token", "https://%%5b::1%%5d/token",
}

// redirects are where a hostile registry may lead a request that carries a login.
var redirects = []string{
	"https://%[1]s/blob", "http://%[1]s/blob", "//%[1]s/blob", "https://%[1]s", "https://%[3]s@%[1]s/blob", "https://%[1]s\\@%[3]s/blob", "https://%[3]s.%[1]s/blob",
	"https://%[2]s/v2/team/app/manifests/1", "https://%[2]s/token?service=x", "http://%[3]s/blob", "https://%[3]s:1/blob", "https://127.0.0.1/blob", "https://[::1]/blob",
	"https://169.254.169.254/", "https://localhost/", "/\\%[1]s/blob", "/%%2f%[1]s/blob", "https:%[1]s/blob", "ftp://%[1]s/blob", "file:///etc/passwd",
}

// Secrets go to the registry and the token service that they are for, and nowhere else: whatever a hostile registry says,
// and not into logs, metrics, answers, or the cache directory.
func TestCanaries(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	private := func(name, canary string) *registrytest.Registry {
		return registrytest.New(t, registrytest.Config{
			World: world, Name: name, Login: registrytest.Bearer, Users: map[string]string{"robot": canary}, Private: map[string][]string{"team/app": {"robot"}},
		})
	}
	good, broken := private("good.test", canaryCentral), private("broken.test", canarySpilt)
	kept := []*registrytest.Registry{good, private("file.test", canaryFile), private("config.test", canaryConfig), private("helper.test", canaryHelper)}
	configuration, processes := keep(t, kept[1], kept[2], kept[3], broken)
	own := registrytest.New(t, registrytest.Config{
		World: world, Name: "own.test", Login: registrytest.Basic, Users: map[string]string{"me": canaryOwn}, Faults: registrytest.Faults{Redirect: 307},
		Private: map[string][]string{"mine/app": {"me"}},
	})
	mine := own.PushImage("mine/app", "1", layers(2, 2, 100_000)...)
	trap, hostile := &ears{}, &ears{}
	trapHost := world.Site("trap.test", trap.listen(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"token":"minted"}`)) }))
	var evilHost string
	statuses := []int{301, 302, 303, 307, 308}
	evilHost = world.Site("evil.test", hostile.listen(func(w http.ResponseWriter, r *http.Request) {
		p, _ := oci.ParsePath(r.URL.EscapedPath())
		var n, status int
		if _, err := fmt.Sscanf(p.Repository, "realm/r%d", &n); err == nil {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+fmt.Sprintf(realms[n], trapHost, good.TokenHost(), evilHost)+`",service="good.test",scope="repository:team/app:pull"`)
			w.WriteHeader(401)
			return
		}
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="evil"`)
			w.WriteHeader(401)
			return
		}
		if _, err := fmt.Sscanf(p.Repository, "redirect/r%d-%d", &n, &status); err == nil {
			w.Header()["Location"] = []string{fmt.Sprintf(redirects[n], trapHost, good.Host(), evilHost)}
			w.WriteHeader(statuses[status])
			return
		}
		w.WriteHeader(404)
	}))
	names := []string{own.Host(), evilHost}
	for _, reg := range append(kept, broken) {
		names = append(names, reg.Host(), reg.TokenHost())
	}
	h := start(t, world, "REGISTRIES="+strings.Join(names, " "), "LOG_LEVEL=debug", "CONFIG_FILE="+configuration, "AUTH_REGISTRY_DELIMITER=|",
		"AUTH_REGISTRIES="+good.Host()+"|robot|"+canaryCentral+" "+evilHost+"|robot|"+canaryEvil, "CLIENT_USERS_FILE="+usersFile(t, "node", canaryProxy))
	client := h.as("node", canaryProxy)
	var answers bytes.Buffer
	ask := func(address string, header ...string) answer {
		t.Helper()
		a, err := do(client, request(t, "GET", address, nil, header...))
		if err != nil {
			fmt.Fprintln(&answers, err)
		}
		fmt.Fprintf(&answers, "%v\n%s\n", a.header, a.body)
		return a
	}
	// What is meant to work works.
	mineLogin := login("me", canaryOwn)
	for range 2 {
		for i, reg := range kept {
			img := reg.PushImage("team/app", "1", layers(uint64(10+i), 2, 100_000)...)
			ask(reg.URL()+"/v2/team/app/manifests/1").expect(t, 200)
			ask(reg.URL()+"/v2/team/app/blobs/"+string(img.Layers[0].Digest)).expect(t, 200)
		}
		ask(own.URL()+"/v2/mine/app/manifests/1", "Authorization", mineLogin).expect(t, 200)
		ask(own.URL()+"/v2/mine/app/blobs/"+string(mine.Layers[0].Digest), "Authorization", mineLogin).expect(t, 200)
	}
	ask(own.URL()+"/v2/mine/app/manifests/1", "Authorization", "Bearer "+canaryBearer).expect(t, 401)
	ask(own.URL()+"/v2/", "Authorization", mineLogin).expect(t, 200)
	for n := range redirects {
		for status := range statuses {
			ask(fmt.Sprintf("https://%s/v2/redirect/r%d-%d/manifests/1", evilHost, n, status), "Authorization", mineLogin)
		}
	}
	for n := range realms {
		ask(fmt.Sprintf("https://%s/v2/realm/r%d/manifests/1", evilHost, n), "Authorization", mineLogin)
	}
	if refused := ask(broken.URL() + "/v2/team/app/manifests/1"); refused.status < 400 {
		t.Errorf("a registry whose helper fails answers %d", refused.status)
	}
	trap.mustNotHear(t, "a stranger", "")
	hostile.mustNotHear(t, "the hostile registry", canaryEvil)
	if !holds(hostile.heard.Bytes(), canaryEvil) {
		t.Error("the hostile registry's own login never reached it: the redirects were not asked for")
	}
	allowed := map[string]string{canaryCentral: "good.test", canaryFile: "file.test", canaryConfig: "config.test", canaryHelper: "helper.test", canaryOwn: "own.test", canaryBearer: "own.test"}
	for _, reg := range append(kept, broken, own) {
		for _, r := range reg.Requests() {
			text := []byte(fmt.Sprint(r.Method, r.Path, r.Header))
			for _, canary := range canaries {
				here := r.Host == "auth."+allowed[canary] || reg == own && r.Host == allowed[canary]
				if holds(text, canary) && !here {
					t.Errorf("%s was told %s by %s %s", r.Host, canary, r.Method, r.Path)
				}
			}
		}
	}
	seen, err := os.ReadFile(processes)
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(seen, []byte("PATH=")); lines < 2 {
		t.Errorf("%d helpers were seen, want both:\n%s", lines, seen)
	}
	nowhere := map[string][]byte{"an answer": answers.Bytes(), "the log": []byte(h.log.String()), "a metric": h.operator("/metrics").body, "a process": seen}
	if err := h.close(); err != nil { // all is on disk
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(h.root, "cache"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		nowhere[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range nowhere {
		for _, canary := range canaries {
			if holds(text, canary) {
				t.Errorf("%s is in %s", canary, where)
			}
		}
	}
}
