package e2e

import (
	"net/http"
	"slices"
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

// scenario is what every client does: it never logs in, and each image is pulled three times.
//
//	1  the cache is cold: everything is a miss
//	2  the cache is warm: the registry is asked for no blob
//	3  the proxy was restarted: the same
func scenario(t *testing.T, newClient func(t *testing.T, p *proxy) client) {
	t.Helper()
	world := registrytest.NewWorld(t)
	const password = "p:ss word;%s" // with what delimiters and escapes are made of
	origins := map[string]origin{
		"docker-registry":               debianRegistry(t, world, "open.test", "", newImage(t, 10)),
		"docker-registry with htpasswd": debianRegistry(t, world, "basic.test", password, newImage(t, 20)),
	}
	token, fake := tokenRegistry(t, world, "bearer.test", password, newImage(t, 30))
	origins["token registry"] = token
	hosts := token.host + " " + fake.TokenHost()
	entries := ""
	for name, o := range origins {
		hosts += " " + o.host
		if name != "docker-registry" {
			entries += ";;;" + o.host + "|||" + user + "|||" + password
		}
	}
	p := startProxy(t, world, "REGISTRIES="+hosts, "ALLOWED_NETWORKS=127.0.0.0/8",
		"AUTH_REGISTRIES_DELIMITER=;;;", "AUTH_REGISTRY_DELIMITER=|||", "AUTH_REGISTRIES="+entries[3:])
	c := newClient(t, p)
	for name, o := range origins {
		t.Run(name, func(t *testing.T) {
			pullTwice(t, c, p, o)
		})
	}
	p.restart()
	for name, o := range origins {
		t.Run(name+" after a restart", func(t *testing.T) {
			asked := o.blobGETs()
			pullOnce(t, c, o)
			wantNoBlobs(t, p, o, asked, 0)
		})
	}
	for _, r := range fake.To("cdn.bearer.test") {
		if r.Authorization() != "" {
			t.Errorf("the CDN got an Authorization with %s %s", r.Method, r.Path)
		}
	}
}

func pullTwice(t *testing.T, c client, p *proxy, o origin) {
	t.Helper()
	pullOnce(t, c, o)
	first := p.outcomes(o.host, 0)
	if asked := o.blobGETs(); asked == 0 || !slices.Contains(first, "miss") || slices.Contains(first, "hit") {
		t.Errorf("first pull: the registry saw %d GETs of blobs, outcomes %q, want misses", asked, first)
	}
	c.wipe(t, o.reference())
	asked, seen := o.blobGETs(), len(p.records("blob", o.host))
	pullOnce(t, c, o)
	wantNoBlobs(t, p, o, asked, seen)
	c.wipe(t, o.reference())
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
