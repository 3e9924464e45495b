package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// guest is a client that may be refused.
type guest interface {
	client
	// try pulls an image, or returns an error with all that the client printed.
	try(t *testing.T, reference string) error
}

// guests are the clients that pull with whatever login they are told to use; each keeps its store from one to the next.
func guests(t *testing.T, w way) map[string]func(w way) guest {
	t.Helper()
	need(t, "dockerd", "docker", "containerd", "ctr", "podman", "skopeo")
	daemon := startDockerd(t, w, "{}")
	socket := startContainerd(t, w, withCRI)
	podmans, skopeos := shortDir(t), t.TempDir()
	policy, noConfig := anyImage(t, podmans), t.TempDir()
	return map[string]func(w way) guest{
		"dockerd": func(w way) guest {
			d := *daemon
			if d.config = noConfig; w.logins != "" {
				d.config = filepath.Dir(w.logins)
			}
			return &d
		},
		"containerd": func(w way) guest { return &cri{ctr: ctr{socket: socket, namespace: "k8s.io"}, password: w.password} },
		"podman":     func(w way) guest { return &podman{way: w, dir: podmans, policy: policy} },
		"skopeo":     func(w way) guest { return &skopeo{way: w, dir: skopeos, flags: w.authfile("--src-authfile")} },
	}
}

// as is the same way with a login for an origin.
func (w way) as(t *testing.T, o origin, password string) way {
	t.Helper()
	w.password, w.logins = password, logins(t, password, []origin{o})
	return w
}

// unused is a password that the proxy has for a registry which nobody asks for.
const unused = "unused-4cfe"

// Clients that log in themselves at a registry with a password, of which the proxy has no login: each pulls with the right
// one, and gets nothing without or with a wrong one, although all is in the cache by then. And clients without any login,
// of which the proxy has one that changes all the time.
func TestLogins(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	own := debianRegistry(t, world, "own.test", password, newImage(t, 110))
	central := debianRegistry(t, world, "central.test", password, newImage(t, 120))
	helper := newRotatingHelper(t, central)
	p := startProxy(t, world, "REGISTRIES="+own.host+" "+central.host, "ALLOWED_NETWORKS=127.0.0.0/8", helper.path(), "AUTH_CONFIG_FILE="+helper.config,
		"AUTH_REGISTRY_DELIMITER=|", "AUTH_REGISTRIES=third.test|robot|"+unused)
	all, names := guests(t, p.way()), []string{"dockerd", "containerd", "podman", "skopeo"}
	pushed := own.blobGETs()
	for _, name := range names {
		t.Run(name+" with logins of its own", func(t *testing.T) { logsIn(t, own, p, all[name]) })
	}
	if got, want := own.blobGETs()-pushed, len(own.image.Blobs); got != want {
		t.Errorf("all clients' pulls cost %d GETs of blobs, want %d", got, want)
	}
	pullAll := func(when string) {
		pushed := central.blobGETs()
		for _, name := range names {
			t.Run(name+" without a login, "+when, func(t *testing.T) {
				c := all[name](p.way())
				pullOnce(t, c, central)
				c.wipe(t, central.reference())
			})
		}
		if got, want := central.blobGETs()-pushed, len(central.image.Blobs); got != want {
			t.Errorf("%s all clients' pulls cost %d GETs of blobs, want %d", when, got, want)
		}
	}
	pullAll("before a rotation")
	central.image = newImage(t, 130)
	push(t, world.Client(), central, helper.rotate(t))
	helper.rotate(t)
	helper.beTheStore(t)
	pullAll("after a rotation")
	if got := len(helper.gave(t)); got != 4 { // two to us
		t.Errorf("the helper gave %d passwords, want 4", got)
	}
	text, processes := p.daemon.text(), string(readFile(t, filepath.Join(helper.dir, "processes")))
	if !strings.Contains(processes, program+" serve") {
		t.Errorf("the proxy's command line was not seen:\n%s", processes)
	}
	for _, secret := range append(helper.gave(t), password, unused) {
		if strings.Contains(text, secret) {
			t.Errorf("the proxy logged the password %q", secret)
		}
		if strings.Contains(processes, secret) {
			t.Errorf("the password %q is in a command line or a helper's environment", secret)
		}
	}
}

var unauthorized = regexp.MustCompile(`(?i)unauthorized|no basic auth credentials`)

// logsIn has one client pull with several logins.
func logsIn(t *testing.T, o origin, p *proxy, client func(w way) guest) {
	stranger, liar, member := client(p.way()), client(p.way().as(t, o, "wrong")), client(p.way().as(t, o, password))
	wantNothing := func(who string, c guest) {
		t.Helper()
		asked, before := o.blobGETs(), len(p.served(o.host))
		err := c.try(t, o.reference())
		if err == nil || !unauthorized.MatchString(err.Error()) {
			t.Errorf("%s: %v, want an error that says unauthorized", who, err)
		}
		if served := p.served(o.host)[before:]; len(served) != 0 {
			t.Errorf("%s was given %v", who, served)
		}
		if got := o.blobGETs() - asked; got != 0 {
			t.Errorf("%s cost %d GETs of blobs", who, got)
		}
	}
	wantNothing("a client without a login", stranger)
	pullOnce(t, member, o)
	member.wipe(t, o.reference())
	wantNothing("a client without a login, after one with", stranger)
	pullOnce(t, member, o)
	member.wipe(t, o.reference())
	wantNothing("a client with a wrong password", liar)
}

// served are the manifests and blobs of a registry that clients were given so far.
func (p *proxy) served(registry string) []record {
	p.t.Helper()
	return slices.DeleteFunc(append(p.records("manifest", registry), p.records("blob", registry)...), func(r record) bool {
		return r.Status != http.StatusOK && r.Status != http.StatusPartialContent
	})
}

// rotatingHelper is docker-credential-rotating: each time it is asked for its login it makes another password, and the
// registry takes that one alone from then on. It notes what there is to see of its process and its parent's.
type rotatingHelper struct {
	dir    string
	config string // a config.json of Docker's that names it
	host   string
}

const rotatingScript = `#!/bin/sh
set -e
cd %[1]s
{ tr '\0' ' ' </proc/$$/cmdline; tr '\0' ' ' </proc/$PPID/cmdline; env; } >>processes
read -r server || [ -n "$server" ]
[ "$1" = get ] || exit 2
[ "$server" = %[2]s ] || { echo "credentials not found in native keychain"; exit 1; }
secret=rotated-$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
echo "$secret" >>secrets
htpasswd -nbB %[3]s "$secret" >next 2>/dev/null
mv next %[4]s
printf '{"ServerURL":"%%s","Username":"%[3]s","Secret":"%%s"}\n' "$server" "$secret"
`

func newRotatingHelper(t *testing.T, o origin) *rotatingHelper {
	t.Helper()
	h := &rotatingHelper{dir: t.TempDir(), host: o.host}
	program := writeFile(t, filepath.Join(h.dir, "docker-credential-rotating"), fmt.Sprintf(rotatingScript, h.dir, o.host, user, o.users))
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	h.config = writeFile(t, filepath.Join(h.dir, "config.json"), `{"credHelpers": {"`+o.host+`": "rotating"}}`)
	return h
}

// path is the proxy's, by which it finds the helper.
func (h *rotatingHelper) path() string { return "PATH=" + h.dir + ":" + os.Getenv("PATH") }

// beTheStore makes the helper the one for all registries, as "docker login" leaves it.
func (h *rotatingHelper) beTheStore(t *testing.T) {
	t.Helper()
	next := writeFile(t, h.config+".next", `{"auths": {"`+h.host+`": {}}, "credsStore": "rotating"}`)
	if err := os.Rename(next, h.config); err != nil {
		t.Fatal(err)
	}
}

// rotate asks the helper, as somebody else would: the login that the proxy has is void.
func (h *rotatingHelper) rotate(t *testing.T) (secret string) {
	t.Helper()
	out := command{args: []string{"sh", "-c", "echo " + h.host + " | " + filepath.Join(h.dir, "docker-credential-rotating") + " get"}}.run(t)
	var login struct{ Secret string }
	if err := json.Unmarshal([]byte(out), &login); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return login.Secret
}

// gave are all passwords that it has given.
func (h *rotatingHelper) gave(t *testing.T) []string {
	t.Helper()
	return strings.Fields(string(readFile(t, filepath.Join(h.dir, "secrets"))))
}
