package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// client is a container client whose store is its own.
type client interface {
	// pull pulls an image into an empty store and returns what the client calls it: the digest of its configuration,
	// or of its manifest.
	pull(t *testing.T, reference string) string
	// wipe empties the store, so that the next pull has to ask for everything.
	wipe(t *testing.T, reference string)
	// id is what pull has to return.
	id(img registrytest.Image) string
}

// password is user's, at every origin that wants one: with what delimiters and escapes are made of.
const password = "p:ss word;%s"

// scenario is what every client does. It first pulls each image past the proxy, so that it is clear what it calls them;
// then three times through the proxy, without a login:
//
//	1  the cache is cold: everything is a miss
//	2  the cache is warm: the registry is asked for no blob
//	3  the proxy was restarted: the same
//	4  one registry cannot be had, in several ways: the same
func scenario(t *testing.T, newClient func(t *testing.T, w way) client) {
	t.Helper()
	world := registrytest.NewWorld(t)
	token, fake := tokenRegistry(t, world, "bearer.test", newImage(t, 30))
	origins := []origin{
		debianRegistry(t, world, "open.test", "", newImage(t, 10)),
		debianRegistry(t, world, "basic.test", password, newImage(t, 20)),
		token,
	}
	t.Run("past the proxy", func(t *testing.T) {
		c := newClient(t, direct(t, world, password, origins))
		for _, o := range origins {
			pullOnce(t, c, o)
			c.wipe(t, o.reference())
		}
	})
	registries, entries := []string{fake.TokenHost()}, []string{}
	for _, o := range origins {
		registries = append(registries, o.host)
		if o.private {
			entries = append(entries, o.host+"|||"+user+"|||"+password)
		}
	}
	p := startProxy(t, world, "REGISTRIES="+strings.Join(registries, " "), "ALLOWED_NETWORKS=127.0.0.0/8", "UPSTREAM_GIVE_UP=1s",
		"AUTH_REGISTRIES_DELIMITER=;;;", "AUTH_REGISTRY_DELIMITER=|||", "AUTH_REGISTRIES="+strings.Join(entries, ";;;"))
	fake.Forget()
	c := newClient(t, p.way())
	for _, o := range origins {
		t.Run(o.host, func(t *testing.T) { pullTwice(t, c, p, o) })
	}
	logged := p.restart()
	for _, o := range origins {
		t.Run(o.host+" after a restart", func(t *testing.T) {
			asked := o.blobGETs()
			pullOnce(t, c, o)
			wantNoBlobs(t, p, o, asked, 0)
			wantMarkedHit(t, p, o)
			if o.host != token.host { // which is pulled on below
				c.wipe(t, o.reference())
			}
		})
	}
	logged += p.daemon.text()
	t.Run("while "+token.host+" cannot be had", func(t *testing.T) { pullDuringOutages(t, c, p, token, fake) })
	wantLoginsKept(t, fake, logged+p.daemon.text())
}

func pullTwice(t *testing.T, c client, p *proxy, o origin) {
	t.Helper()
	before := o.blobGETs()
	pullOnce(t, c, o)
	first := p.outcomes(o.host, 0)
	if asked := o.blobGETs() - before; asked == 0 || !slices.Contains(first, "miss") || slices.Contains(first, "hit") {
		t.Errorf("first pull: the registry saw %d GETs of blobs, outcomes %q, want misses", asked, first)
	}
	c.wipe(t, o.reference())
	pullAgain(t, c, p, o)
	c.wipe(t, o.reference())
}

// pullAgain pulls what is in the cache.
func pullAgain(t *testing.T, c client, p *proxy, o origin) {
	t.Helper()
	asked, seen := o.blobGETs(), len(p.records("blob", o.host))
	pullOnce(t, c, o)
	wantNoBlobs(t, p, o, asked, seen)
}

func pullOnce(t *testing.T, c client, o origin) {
	t.Helper()
	if got, want := c.pull(t, o.reference()), c.id(o.image); got != want {
		t.Errorf("%s is %s, want %s", o.reference(), got, want)
	}
}

// wantNoBlobs checks that since the registry had been asked for so many blobs, and the proxy had logged so many, all were hits.
func wantNoBlobs(t *testing.T, p *proxy, o origin, asked, seen int) {
	t.Helper()
	if got := o.blobGETs() - asked; got != 0 {
		t.Errorf("the registry saw %d GETs of blobs, want none", got)
	}
	outcomes := p.outcomes(o.host, seen)
	// The layers and the configuration, each once.
	if want := len(o.image.Layers) + 1; len(outcomes) < want || slices.ContainsFunc(outcomes, func(o string) bool { return o != "hit" }) {
		t.Errorf("outcomes of blobs are %q, want %d hits", outcomes, want)
	}
	for _, r := range p.records("manifest", o.host) {
		if r.Status != http.StatusOK {
			t.Errorf("manifest: %v", r)
		}
	}
}

// wantMarkedHit checks the response headers of a cached layer, under our name and those of the originals.
func wantMarkedHit(t *testing.T, p *proxy, o origin) {
	t.Helper()
	resp, err := p.client(t).Get("https://" + o.host + "/v2/" + repository + "/blobs/" + string(o.image.Layers[0].Digest))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, name := range []string{"X-Cache", "X-Container-Registry-Proxy-Cache-Upstream-Status", "X-Docker-Registry-Proxy-Cache-Upstream-Status"} {
		if got := resp.Header.Get(name); got != "HIT" {
			t.Errorf("%s: %s = %q, want HIT", resp.Request.URL, name, got)
		}
	}
}

// wantLoginsKept checks that the password went to the token service and to nobody else, not even the log.
func wantLoginsKept(t *testing.T, fake *registrytest.Registry, log string) {
	t.Helper()
	if strings.Contains(log, password) {
		t.Error("the proxy logged the password")
	}
	basic := false
	for _, r := range fake.Requests() {
		kind, _, _ := strings.Cut(r.Authorization(), " ")
		switch want := map[string]string{"bearer.test": "Bearer", "auth.bearer.test": "Basic"}[r.Host]; kind {
		case "":
		case want:
			basic = basic || kind == "Basic"
		default:
			t.Errorf("%s got an Authorization of kind %s with %s %s", r.Host, kind, r.Method, r.Path)
		}
	}
	if !basic {
		t.Error("nobody logged in at the token service")
	}
	if cdn := fake.To("cdn.bearer.test"); len(cdn) == 0 {
		t.Error("the CDN was asked for nothing")
	}
}
