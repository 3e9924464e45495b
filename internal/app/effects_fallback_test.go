package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// pair is a registry and one that stands in for it, with one image, and a house between them and their clients.
type pair struct {
	*house
	first, other *registrytest.Registry
	image        registrytest.Image
}

// newPair has a registry whose every pull takes a token, and a fallback that wants none.
func newPair(t *testing.T, outage registrytest.Outage, environ ...string) pair {
	t.Helper()
	world := registrytest.NewWorld(t)
	p := pair{
		first: registrytest.New(t, registrytest.Config{World: world, Name: "first.test", Login: registrytest.Basic, Users: map[string]string{"robot": "canary"}}),
		other: registrytest.New(t, registrytest.Config{World: world, Name: "other.test", Faults: registrytest.Faults{Redirect: 307}}),
	}
	p.image = p.first.PushImage("app", "1", layers(1, 2, 300_000)...)
	p.other.Put("app", "1", p.image)
	p.house = entry(t, world, "host: "+p.first.Host()+", fallback: ['"+p.other.Host()+"']",
		append([]string{"AUTH_REGISTRY_DELIMITER=|", "AUTH_REGISTRIES=" + p.first.Host() + "|robot|canary"}, environ...)...)
	p.first.Set(func(f *registrytest.Faults) { f.Registry = outage })
	return p
}

// wantDiscretion fails the test if the fallback was shown anything.
func (p pair) wantDiscretion() {
	p.t.Helper()
	for _, r := range p.other.Requests() {
		if r.Authorization() != "" || r.Header.Get("Cookie") != "" {
			p.t.Errorf("%s %s: the fallback is shown %q", r.Method, r.Path, r.Authorization())
		}
	}
}

func TestAFallbackStandsInForARegistryInTrouble(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]registrytest.Outage{
		"down": {Down: true}, "failing": {Status: 503}, "limiting": {Status: 429, RetryAfter: "3600"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, outage)
			p.pull(p.first, "app", "1").wantOutcomes(t, "MISS", "MISS")
			p.wantDiscretion()
			if n := p.metric("fallbacks_total"); n < 4 {
				t.Errorf("the metric counts %v pulls that the fallback answered, want the manifest's and those of three blobs", n)
			}
			// What has a digest is not asked of a registry that has just been found in trouble. One that limits manifests may
			// still give blobs, until it says otherwise.
			if n := p.first.Count("GET", "/blobs/"); n > map[string]int{"limiting": 1}[name] {
				t.Errorf("the registry in trouble was asked for %d blobs", n)
			}
			p.other.Forget()
			p.pull(p.first, "app", "1")
			if n := p.other.Count("GET", ""); n > 0 {
				t.Errorf("a second pull asked the fallback %d times, want what is cached", n)
			}
		})
	}
}

// The fallback may know an older tag, so it is asked only while the registry cannot say.
func TestATagIsTheRegistrysToSay(t *testing.T) {
	t.Parallel()
	p := newPair(t, registrytest.Outage{})
	newer := p.first.PushImage("app", "1", layers(2, 1, 1000)...)
	if got := p.pull(p.first, "app", "1").desc.Digest; got != newer.Digest {
		t.Errorf("the tag means %s, want what the registry says, %s", got, newer.Digest)
	}
	p.awaitStored(newer)
	// In trouble, what is cached is better than what the fallback says.
	p.first.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{Status: 503} })
	if got := p.pull(p.first, "app", "1").desc.Digest; got != newer.Digest {
		t.Errorf("with the registry in trouble the tag means %s, want the stale %s", got, newer.Digest)
	}
	if asked := p.other.Requests(); len(asked) > 0 {
		t.Errorf("the fallback was asked %q", registrytest.Paths(asked))
	}
	// Trouble over, the registry is asked again.
	p.first.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
	latest := p.first.PushImage("app", "2", layers(3, 1, 1000)...)
	if got := p.pull(p.first, "app", "2").desc.Digest; got != latest.Digest {
		t.Errorf("the new tag means %s, want %s", got, latest.Digest)
	}
}

// What a fallback lacks, or spoils, is no worse than having none.
func TestAFallbackThatIsOfNoUse(t *testing.T) {
	t.Parallel()
	p := newPair(t, registrytest.Outage{Status: 429, RetryAfter: "77", Header: http.Header{"Ratelimit-Limit": {"100;w=21600"}}})
	p.other.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{Status: 404} })
	a := p.ask("GET", p.first.URL()+"/v2/app/manifests/1")
	a.wantError(t, "neither has it", 429, "TOOMANYREQUESTS")
	if a.header.Get("Retry-After") != "77" || a.header.Get("Ratelimit-Limit") == "" {
		t.Errorf("the registry's own refusal came as %v, want its headers", a.header)
	}
	p.other.Set(func(f *registrytest.Faults) { *f = registrytest.Faults{Body: registrytest.Body{CorruptAt: 100}} })
	digest := p.image.Layers[0].Digest
	if a, err := do(p.http, request(t, "GET", fmt.Sprintf("%s/v2/app/blobs/%s", p.first.URL(), digest), nil)); err == nil && a.status == 200 && a.cut == nil {
		t.Error("a blob that the fallback spoils came as a whole")
	}
	if p.stored(digest) {
		t.Error("a blob that the fallback spoils is stored")
	}
	// A refusal that is about what was asked for is no trouble.
	p = newPair(t, registrytest.Outage{Status: 404})
	p.ask("GET", p.first.URL()+"/v2/app/manifests/1").expect(t, 404)
	if asked := p.other.Requests(); len(asked) > 0 {
		t.Errorf("the registry says 404, and the fallback was asked %q", registrytest.Paths(asked))
	}
}

// A fallback has its own login, if any, and a client's own is none of its business.
func TestAFallbackHasItsOwnLogin(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	first := registrytest.New(t, registrytest.Config{World: world, Name: "first.test", Faults: registrytest.Faults{Registry: registrytest.Outage{Down: true}}})
	other := registrytest.New(t, registrytest.Config{World: world, Name: "other.test", Login: registrytest.Basic, Users: map[string]string{"mirror": "own"}})
	other.PushImage("app", "1", layers(1, 1, 1000)...)
	h := entry(t, world, "host: "+first.Host()+", fallback: ['"+other.Host()+"']", "AUTH_REGISTRY_DELIMITER=|", "AUTH_REGISTRIES="+other.Host()+"|mirror|own")
	h.pull(first, "app", "1", "Authorization", login("client", "canary"))
	for _, r := range other.Requests() {
		if r.Authorization() != "" && r.Authorization() != login("mirror", "own") {
			t.Errorf("%s %s: the fallback is shown %q", r.Method, r.Path, r.Authorization())
		}
	}
	if n := other.Count("GET", "/blobs/"); n == 0 || strings.Contains(h.log.String(), "canary") {
		t.Errorf("%d blobs came from the fallback, want some; no log may show a login", n)
	}
}

// A registry that is well again is asked at once for what its fallback lacks.
func TestARegistryThatRestsIsAskedForWhatOnlyItHas(t *testing.T) {
	t.Parallel()
	p := newPair(t, registrytest.Outage{Status: 503})
	only := registrytest.Bytes(99, 10_000)
	digest := p.first.PutBlob("app", only)
	p.pull(p.first, "app", "1")
	p.first.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
	if a := p.ask("GET", fmt.Sprintf("%s/v2/app/blobs/%s", p.first.URL(), digest)).expect(t, 200); string(a.body) != string(only) {
		t.Errorf("got %d other bytes", len(a.body))
	}
}

// What a fallback shows to everybody must not open what the registry shows to some: the same name may be somebody else's
// there.
func TestAFallbackOpensNothing(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	first := registrytest.New(t, registrytest.Config{
		World: world, Name: "first.test", Login: registrytest.Basic, Users: map[string]string{"owner": "secret", "thief": "secret"},
		Private: map[string][]string{"app": {"owner"}},
	})
	other := registrytest.New(t, registrytest.Config{World: world, Name: "other.test"})
	private := first.PushImage("app", "1", layers(1, 1, 1000)...)
	evil := other.PushImage("app", "1", layers(2, 1, 1000)...) // the thief's
	h := entry(t, world, "host: "+first.Host()+", fallback: ['"+other.Host()+"']")
	h.pull(first, "app", string(private.Digest), "Authorization", login("owner", "secret"))
	h.awaitStored(private)
	for _, outage := range []registrytest.Outage{{Status: 429, RetryAfter: "1"}, {Status: 503}, {Down: true}} {
		first.Set(func(f *registrytest.Faults) { f.Registry = outage })
		for _, header := range [][]string{nil, {"Authorization", login("nobody", "junk")}, {"Authorization", login("thief", "secret")}} {
			h.ask("GET", first.URL()+"/v2/app/manifests/"+string(evil.Digest), header...) // comes from the fallback, or not at all
			for path, digest := range map[string]string{"manifests": string(private.Digest), "blobs": string(private.Layers[0].Digest)} {
				a, err := do(h.http, request(t, "GET", fmt.Sprintf("%s/v2/app/%s/%s", first.URL(), path, digest), nil, header...))
				if err == nil && a.status == 200 {
					t.Errorf("%+v, %v: a stranger got what is private in %s", outage, header, path)
				}
			}
		}
	}
}
