package app_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// elsewhere is a world in which one name has another address.
type elsewhere struct {
	*registrytest.World
	name string
	at   netip.Addr
}

func (e elsewhere) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if host == e.name {
		return []netip.Addr{e.at}, nil
	}
	return e.World.LookupNetIP(ctx, network, host)
}

const image = "team/app"

// behind starts a proxy in front of another: the registry name:port is the other one's port, which speaks TLS by that name
// and takes what it is asked for to be of its own default registry.
func behind(t *testing.T, world *registrytest.World, name string, port uint16, ip, other string, environ ...string) *house {
	t.Helper()
	certFile, keyFile := tlsFiles(t, world, name)
	return plan{
		world: world, resolver: elsewhere{world, name, netip.MustParseAddr(other)},
		environ: append([]string{
			fmt.Sprintf("LISTEN=%s:%d", ip, port), "TLS_CRT_FILE=" + certFile, "TLS_KEY_FILE=" + keyFile, fmt.Sprintf("REGISTRIES=%s:%d", name, port),
		}, environ...),
	}.start(t)
}

// Two proxies that take each other for the registry: what comes back to the first one is refused there, and nothing goes
// round more than once.
func TestLoop(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	const name, first, second = "loop.test", "127.91.0.1", "127.91.0.2"
	port := world.Reserve(name).Port()
	registry := fmt.Sprintf("DEFAULT_REGISTRY=%s:%d", name, port)
	a := behind(t, world, name, port, first, second, registry)
	b := behind(t, world, name, port, second, first, registry)
	for _, path := range []string{
		"manifests/1.0", "manifests/sha256:" + strings.Repeat("ab", 32), "blobs/sha256:" + strings.Repeat("cd", 32), "tags/list",
	} {
		began := time.Now()
		answer := a.local("GET", "/v2/"+image+"/"+path)
		if answer.status < 500 || answer.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: answered %d, %.300q, want an error", path, answer.status, answer.body)
		}
		if took := time.Since(began); took > patience {
			t.Errorf("%s: went round for %s", path, took)
		}
	}
	refused := strings.Count(a.log.String(), `"status":508`)
	if refused < 4 {
		t.Errorf("the first proxy refused %d requests of its own, want those of all four; its log:\n%s", refused, a.log)
	}
	// Each of the client's requests may be asked a few times, as requests that fail are; none of them goes round again.
	if asked := strings.Count(b.log.String(), `"msg":"request"`); asked > 60 {
		t.Errorf("the second proxy was asked %d times", asked)
	}
	own := a.log.String()
	if own = own[strings.Index(own, `"status":508`):]; !strings.Contains(a.log.String(), "leads back here") {
		t.Errorf("the log does not say why: %.500s", own)
	}
}

// One proxy behind another is no loop: both keep what goes through, and the registry sees through whom it came.
func TestProxyBehindProxy(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	origin := registrytest.New(t, registrytest.Config{World: world, Name: "origin.test"})
	img := registrytest.NewImage(nil, registrytest.Layer(7, 1<<20))
	origin.Put(image, "1.0", img)
	const name, first, second = "near.test", "127.92.0.1", "127.92.0.2"
	port := world.Reserve(name).Port()
	outer := behind(t, world, name, port, first, second, fmt.Sprintf("DEFAULT_REGISTRY=%s:%d", name, port))
	behind(t, world, name, port, second, first, "REGISTRIES="+origin.Host(), "DEFAULT_REGISTRY="+origin.Host())
	for _, want := range []string{"MISS", "HIT"} {
		outer.local("GET", "/v2/"+image+"/manifests/1.0").expect(t, 200)
		got := outer.local("GET", "/v2/"+image+"/blobs/"+string(img.Layers[0].Digest)).expect(t, 200)
		if string(got.body) != string(img.Blobs[img.Layers[0].Digest]) || got.outcome() != want {
			t.Errorf("a layer of %d bytes, %s, want %s", len(got.body), got.outcome(), want)
		}
	}
	blobs := 0
	for _, r := range origin.Requests() {
		if r.Method == http.MethodGet && strings.Contains(r.Path, "/blobs/") {
			blobs++
		}
		via := strings.Join(r.Header["Via"], ", ")
		if strings.HasPrefix(r.Path, "/v2/"+image) && strings.Count(via, "container-registry-proxy-") != 2 {
			t.Errorf("%s %s came via %q, want both proxies", r.Method, r.Path, via)
		}
	}
	if blobs != 1 {
		t.Errorf("the registry was asked for %d blobs, want 1", blobs)
	}
}
