package registry_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// tagged is a registry with one tag, and a proxy through which it has been pulled once.
type tagged struct {
	*house
	r   *registrytest.Registry
	old registrytest.Image
}

const repo = "library/app"

func pulled(t *testing.T, p plan, cfg registrytest.Config) *tagged {
	t.Helper()
	r := registrytest.New(t, cfg)
	p.world = r.World
	x := &tagged{r: r, old: r.PushImage(repo, "1", registrytest.Bytes(20, 1<<10))}
	x.house = p.build(t)
	x.get(r, manifest(repo, "1"), acceptAll).is(t, 200, x.old.Manifest)
	layer := x.old.Layers[0].Digest
	x.get(r, blob(repo, layer)).is(t, 200, x.old.Blobs[layer])
	x.get(r, blob(repo, x.old.Config.Digest)).is(t, 200, nil)
	r.Forget()
	return x
}

// moved has the tag point to another image.
func (x *tagged) retag() registrytest.Image {
	return x.r.PushImage(repo, "1", registrytest.Bytes(21, 1<<10))
}

func (x *tagged) tag(headers ...string) answer {
	return x.get(x.r, manifest(repo, "1"), append(headers, acceptAll)...)
}

func TestATagIsFreshThenRevalidated(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: time.Hour}, registrytest.Config{})
	moved := x.retag()
	x.pass(time.Hour - time.Second)
	x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: HIT", "X-Container-Registry-Proxy-Cache-Type: manifest-default")
	counts(t, x.r, map[string]int{" ": 0})

	x.pass(2 * time.Second)
	x.head(x.r, manifest(repo, "1"), acceptAll).is(t, 200, nil).has(t, "Docker-Content-Digest: "+string(moved.Digest))
	x.tag().is(t, 200, moved.Manifest).has(t, "Docker-Content-Digest: "+string(moved.Digest))
	counts(t, x.r, map[string]int{"HEAD /manifests/1": 1, "GET /manifests/1": 0, "GET /manifests/" + string(moved.Digest): 1})

	x.pass(time.Hour)
	x.r.Forget()
	x.tag().is(t, 200, moved.Manifest).has(t, "X-Cache: REVALIDATED")
	x.tag().is(t, 200, moved.Manifest).has(t, "X-Cache: HIT")
	counts(t, x.r, map[string]int{"HEAD /manifests/1": 1, "GET ": 0})
}

func TestAClientMayAskForARevalidation(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: time.Hour}, registrytest.Config{})
	moved := x.retag()
	x.tag().is(t, 200, x.old.Manifest)
	x.tag("Cache-Control: No-Cache, max-age=0").is(t, 200, moved.Manifest)
	x.tag().is(t, 200, moved.Manifest).has(t, "X-Cache: HIT")
}

// Those who find a tag stale at the same time cost one question, HEADs and GETs together; so does who comes to ask when
// another has just been answered.
func TestOneQuestionForAllWhoFindATagStale(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: time.Hour, giveUp: time.Minute}, registrytest.Config{})
	x.pass(2 * time.Hour)
	x.r.Set(func(f *registrytest.Faults) { f.Registry.Hang = true })
	done := make(chan struct{})
	go func() { // waited for below
		defer close(done)
		together(30, func(i int) {
			if i%3 == 0 {
				x.head(x.r, manifest(repo, "1"), acceptAll).is(t, 200, nil)
				return
			}
			x.tag().is(t, 200, x.old.Manifest)
		})
	}()
	x.r.Await(1, "HEAD", "/manifests/1")
	x.r.Set(func(f *registrytest.Faults) { f.Registry.Hang = false })
	<-done
	if n := x.r.Count("HEAD", "/manifests/1"); n > 2 { // the one that hung is asked again
		t.Errorf("%d HEADs for 30 clients", n)
	}
	counts(t, x.r, map[string]int{"GET ": 0})
}

// outages are the ways in which a registry gives no answer.
func outages() map[string]func(*registrytest.Faults) {
	return map[string]func(*registrytest.Faults){
		"resets":      func(f *registrytest.Faults) { f.Registry.Down = true },
		"hangs":       func(f *registrytest.Faults) { f.Registry.Hang = true },
		"says no TLS": func(f *registrytest.Faults) { f.Registry.HangAccept = true },
		"429":         func(f *registrytest.Faults) { f.Registry.Status = 429 },
		"500":         func(f *registrytest.Faults) { f.Registry.Status = 500 },
		"503":         func(f *registrytest.Faults) { f.Registry.Status, f.Registry.Text = 503, "<html>no backend</html>" },
		"a portal":    func(f *registrytest.Faults) { f.Registry.HTML = true },
	}
}

// Every cached pull of what is open or central succeeds while upstream is in trouble, from a restarted proxy too.
func TestUpstreamTroubleIsNotClientTrouble(t *testing.T) {
	t.Parallel()
	logins := []registrytest.Login{registrytest.Bearer, registrytest.Basic, registrytest.Open}
	for i, name := range slices.Sorted(maps.Keys(outages())) {
		for j, restarted := range []bool{false, true} {
			login := logins[(i+j)%len(logins)]
			t.Run(fmt.Sprintf("%s, restarted %t, login %d", name, restarted, login), func(t *testing.T) {
				t.Parallel()
				testOutage(t, outages()[name], restarted, login)
			})
		}
	}
}

func testOutage(t *testing.T, outage func(*registrytest.Faults), restarted bool, login registrytest.Login) {
	r := registrytest.New(t, registrytest.Config{Login: login, Users: map[string]string{"op": "secret"}})
	p := plan{world: r.World, freshFor: time.Minute, giveUp: 100 * time.Millisecond}
	if login == registrytest.Basic {
		p.central = []string{r.Host() + " op secret"}
	}
	x := &tagged{house: p.build(t), r: r, old: r.PushImage(repo, "1", registrytest.Bytes(20, 1<<10))}
	layer := x.old.Layers[0].Digest
	x.tag().is(t, 200, x.old.Manifest)
	x.get(r, blob(repo, layer)).is(t, 200, nil)
	if restarted {
		x.house = x.again()
	}
	x.pass(48 * time.Hour)
	r.Set(outage)
	for range 2 {
		x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE", `Warning: 110 container-registry-proxy "Response is stale"`)
		x.head(r, manifest(repo, "1"), acceptAll).is(t, 200, nil).has(t, "Docker-Content-Digest: "+string(x.old.Digest))
	}
	x.get(r, manifest(repo, string(x.old.Digest)), acceptAll).is(t, 200, x.old.Manifest).has(t, "X-Cache: HIT")
	x.get(r, blob(repo, layer)).is(t, 200, x.old.Blobs[layer]).has(t, "X-Cache: HIT")
	x.get(r, "/v2/").is(t, 200, nil)

	r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
	moved := x.retag()
	eventually(t, "upstream is asked again", func() bool {
		x.pass(time.Hour)
		return bytes.Equal(x.tag().is(t, 200, nil).body, moved.Manifest)
	})
}

func TestAnOutageOfTheTokenServiceIsOneOfTheRegistry(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{giveUp: 50 * time.Millisecond}, registrytest.Config{Login: registrytest.Bearer})
	x.r.Set(func(f *registrytest.Faults) { f.Token.Down = true })
	x.r.RevokeTokens()
	x.pass(48 * time.Hour)
	x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE")
	x.get(x.r, manifest(repo, string(x.old.Digest))).is(t, 200, x.old.Manifest)
}

// Docker Hub limits GETs and not HEADs: the HEAD says that the tag has moved, and what it has moved to is not to be had.
func TestANewManifestThatCannotBeHadReplacesNothing(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: time.Minute}, registrytest.Config{})
	moved := x.retag()
	limited := func(f *registrytest.Faults) {
		f.Registry = registrytest.Outage{Status: 429, RetryAfter: "120", Only: func(r *http.Request) bool { return r.Method == "GET" }}
	}
	x.r.Set(limited)
	x.pass(time.Hour)
	for range 3 {
		x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE")
		x.head(x.r, manifest(repo, "1"), acceptAll).is(t, 200, nil).has(t, "Docker-Content-Digest: "+string(x.old.Digest))
	}
	// It was asked for it once. HEADs, which it does not limit, go on.
	counts(t, x.r, map[string]int{"GET ": 1})
	x.r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
	x.pass(3 * time.Minute)
	x.tag().is(t, 200, moved.Manifest)
}

// A limit on manifests must not stop the layers of a pull that has begun, and what is not cached gets the registry's
// own words.
func TestRateLimits(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: time.Minute}, registrytest.Config{})
	extra := registrytest.Bytes(22, 100)
	d := x.r.PutBlob(repo, extra)
	x.r.PushImage(repo, "2", extra)
	x.r.Set(func(f *registrytest.Faults) {
		f.Registry = registrytest.Outage{Status: 429, RetryAfter: "30", Header: http.Header{"Ratelimit-Limit": {"100;w=21600"}}, Only: func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }}
	})
	x.pass(time.Hour)
	x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE")
	x.get(x.r, blob(repo, d)).is(t, 200, extra)
	a := x.get(x.r, manifest(repo, "2"), acceptAll).is(t, 429, nil).has(t, "Retry-After: 30", "RateLimit-Limit: 100;w=21600", "Content-Type: application/json")
	if !strings.Contains(string(a.body), "TOOMANYREQUESTS") {
		t.Errorf("body %q", a.body)
	}
}

// statuses: what upstream answers about a tag that is cached, and what the client gets.
func TestWhatARefusalMeansForACachedTag(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: time.Minute, giveUp: time.Minute}, registrytest.Config{})
	for status, want := range map[int]int{401: 401, 403: 403, 404: 404, 400: 400, 429: 200, 500: 200, 502: 200, 503: 200, 504: 200} {
		x.r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
		x.pass(20 * time.Minute) // past a rest, and short of the hour for which the repository is known to be open
		x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: REVALIDATED")
		x.pass(20 * time.Minute)
		x.r.Set(func(f *registrytest.Faults) { f.Registry.Status = status })
		a := x.tag()
		if a.err != nil || a.status != want || want != 200 && strings.Contains(string(a.body), string(x.old.Config.Digest)) {
			t.Errorf("upstream %d: client %d with %.100q, %v, want %d", status, a.status, a.body, a.err, want)
		}
		// By digest the cached copy stays valid, as long as the repository is known to be open.
		x.get(x.r, manifest(repo, string(x.old.Digest))).is(t, 200, x.old.Manifest)
	}
}

func TestADeletedTagIsMissingAndItsDigestStays(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{}, registrytest.Config{})
	x.r.PushImage(repo, "other", registrytest.Bytes(23, 10))
	x.r.Delete(repo, "", x.old.Digest)
	a := x.tag().is(t, 404, nil)
	if !strings.Contains(string(a.body), "MANIFEST_UNKNOWN") {
		t.Errorf("not the registry's own words: %q", a.body)
	}
	x.get(x.r, manifest(repo, string(x.old.Digest))).is(t, 200, x.old.Manifest)
}

// Evicted here and deleted there: a fresh record that leads nowhere must not hide what the tag means by now.
func TestARecordThatLeadsNowhereIsAskedAgain(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: 24 * time.Hour}, registrytest.Config{})
	moved := x.retag()
	x.r.Delete(repo, "", x.old.Digest)
	x.evict(x.old.Digest)
	x.tag().is(t, 200, moved.Manifest)
	x.tag().is(t, 200, moved.Manifest).has(t, "X-Cache: HIT")
}

// evict removes what is stored of a digest, and what is in memory.
func (x *tagged) evict(d oci.Digest) {
	eventually(x.t, "the manifest is stored", func() bool { b, err := x.store.Open(d); return err == nil && b.Close() == nil })
	if err := x.store.Remove(d); err != nil {
		x.t.Fatal(err)
	}
	x.house = x.again()
}

// A registry that answers a HEAD oddly is asked with one GET, and with GETs for a while.
func TestOddHeads(t *testing.T) {
	t.Parallel()
	for name, odd := range map[string]func(*registrytest.Faults){
		"405": func(f *registrytest.Faults) { f.HeadStatus = 405 }, "403": func(f *registrytest.Faults) { f.HeadStatus = 403 },
		"no digest": func(f *registrytest.Faults) { f.OmitDigestHeader = true },
	} {
		x := pulled(t, plan{}, registrytest.Config{})
		x.r.Set(odd)
		for range 3 {
			x.tag().is(t, 200, x.old.Manifest)
		}
		moved := x.retag()
		x.head(x.r, manifest(repo, "1"), acceptAll).is(t, 200, nil).has(t, "Docker-Content-Digest: "+string(moved.Digest))
		x.tag().is(t, 200, moved.Manifest)
		if heads, gets := x.r.Count("HEAD", "/manifests/1"), x.r.Count("GET", "/manifests/1"); heads != 1 || gets != 5 {
			t.Errorf("%s: %d HEADs and %d GETs for 5 requests", name, heads, gets)
		}
	}
}

// What is no manifest is never a tag's meaning: not kept where nothing is known, and no reason to drop what is.
func TestAPortalsPageIsNoManifest(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Registry: registrytest.Outage{HTML: true}}})
	img := r.PushImage(repo, "1", registrytest.Bytes(24, 10))
	h := plan{world: r.World, freshFor: time.Hour}.build(t)
	a := h.get(r, manifest(repo, "1"), acceptAll)
	if a.status < 400 && a.header.Get("X-Cache") != "BYPASS" {
		t.Errorf("a page: status %d, %v", a.status, a.header)
	}
	h.get(r, manifest(repo, string(img.Digest)), acceptAll).is(t, 502, nil)
	h.get(r, blob(repo, img.Config.Digest)).is(t, 502, nil)
	r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
	h.get(r, manifest(repo, "1"), acceptAll).is(t, 200, img.Manifest)
	h.get(r, blob(repo, img.Config.Digest)).is(t, 200, nil)
}

// Documents that could be two things, and types that are not theirs, are passed on and never kept.
func TestAmbiguousManifestsAreNotKept(t *testing.T) {
	t.Parallel()
	const v2 = "application/vnd.docker.distribution.manifest.v2+json"
	r := registrytest.New(t, registrytest.Config{})
	h := plan{world: r.World, freshFor: time.Hour}.build(t)
	for i, tc := range []struct{ mediaType, body string }{
		{registrytest.TypeIndex, `{"schemaVersion":2,"mediaType":"` + registrytest.TypeIndex + `","manifests":[],"layers":[]}`}, // CVE-2021-41190
		{registrytest.TypeManifest, `{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}`},
		{registrytest.TypeManifest, `{"schemaVersion":2,"mediaType":"` + registrytest.TypeIndex + `","manifests":[]}`},
		{registrytest.TypeManifest, `{"schemaVersion":2,"manifests":[]}`},
		{registrytest.TypeIndex, `{"schemaVersion":2,"config":{},"layers":[]}`},
		{v2, `{"schemaVersion":2,"config":{},"layers":[]}`}, // may be an OCI image, which may leave its type away
		{registrytest.TypeManifest, `{"schemaVersion":1,"config":{},"layers":[]}`},
		{registrytest.TypeManifest, `[]`}, {registrytest.TypeManifest, `{}`}, {registrytest.TypeManifest, `{"schemaVersion":2`}, {registrytest.TypeManifest, ``},
		{"text/html", `{"schemaVersion":2,"config":{},"layers":[]}`}, {"", `{"schemaVersion":2,"config":{},"layers":[]}`},
		{"application/json", `{"schemaVersion":2,"config":{},"layers":[]}`}, {"*/*", `{"schemaVersion":2,"config":{},"layers":[]}`},
	} {
		repo := fmt.Sprint("library/app", i)
		d := r.PutManifest(repo, "1", tc.mediaType, []byte(tc.body))
		r.Forget()
		for range 2 {
			h.get(r, manifest(repo, "1"), acceptAll)
			h.get(r, manifest(repo, string(d)), acceptAll)
		}
		if n := r.Count("GET", "/manifests/"); n != 4 || h.store.Usage().Blobs != 0 {
			t.Errorf("%d: %s as %q: %d of 4 requests reached the registry, %d blobs are stored", i, tc.body, tc.mediaType, n, h.store.Usage().Blobs)
		}
	}
}

// A registry that names one digest and sends another's bytes is not believed, and nothing of it is kept.
func TestALyingDigestHeader(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{WrongDigestHeader: true}})
	img := r.PushImage(repo, "1", registrytest.Bytes(25, 10))
	h := plan{world: r.World, freshFor: time.Hour}.build(t)
	h.get(r, manifest(repo, "1"), acceptAll).is(t, 502, nil)
	// By digest its bytes are what they are, whatever the header says.
	h.get(r, manifest(repo, string(img.Digest)), acceptAll).is(t, 200, img.Manifest).has(t, "Docker-Content-Digest: "+string(img.Digest))
	r.Set(func(f *registrytest.Faults) { f.WrongDigestHeader = false })
	h.get(r, manifest(repo, "1"), acceptAll).is(t, 200, img.Manifest)

	// Of what was good before it takes nothing away.
	h = plan{world: r.World}.build(t)
	h.get(r, manifest(repo, "1"), acceptAll).is(t, 200, img.Manifest)
	r.Set(func(f *registrytest.Faults) { f.WrongDigestHeader = true })
	h.get(r, manifest(repo, "1"), acceptAll).is(t, 200, img.Manifest).has(t, "X-Cache: STALE")
}

// A thousand interleaved requests of clients that take different things, against two registries with the same names.
func TestNoMixUp(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	accepts := []string{acceptAll, acceptImages, "Accept: */*", acceptAll + ";q=0.5", "Accept: application/vnd.oci.image.index.v1+json"}
	type side struct {
		s      *site
		bodies [][]byte // by accept
	}
	var sides []side
	var asked atomic.Int64
	for _, name := range []string{"one.test", "two.test"} {
		bodies := map[string][]byte{}
		var want [][]byte
		for i, accept := range accepts {
			_, value, _ := strings.Cut(accept, ": ")
			bodies[value] = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"%s","manifests":[],"annotations":{"of":"%s %d"}}`, registrytest.TypeIndex, name, i)
			want = append(want, bodies[value])
		}
		sides = append(sides, side{newSite(t, world, name, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			body := bodies[strings.Join(r.Header.Values("Accept"), ", ")]
			w.Header().Set("Content-Type", registrytest.TypeIndex)
			w.Header().Set("Docker-Content-Digest", string(oci.FromBytes(body)))
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			_, _ = w.Write(body)
		}), want})
	}
	h := plan{world: world, freshFor: time.Hour}.build(t)
	together(10, func(worker int) {
		for i := range 100 {
			n := (i*7 + worker*3) % (2 * len(accepts))
			s, k := sides[n%2], n/2
			h.get(s.s, manifest(repo, "1"), accepts[k]).is(t, 200, s.bodies[k])
		}
	})
	// One for each, and where another kind of client was there before, a HEAD first.
	if n := asked.Load(); n > int64(2*2*len(accepts)) {
		t.Errorf("%d questions for %d different records", n, 2*len(accepts))
	}
}

// A client's Accept must not fill the disk with records of one tag.
func TestAcceptsThatMeanTheSameShareARecord(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: time.Hour}, registrytest.Config{})
	parts := strings.Split(strings.TrimPrefix(acceptAll, "Accept: "), ", ")
	slices.Reverse(parts)
	for _, headers := range [][]string{
		{"Accept: " + strings.Join(parts, ",")},
		{"Accept: " + parts[0] + ", " + parts[1], "Accept: " + parts[2] + "," + parts[3]},
		{acceptAll + ", application/x-1"}, {acceptAll + ";q=1.0", "Accept: text/plain;q=0.2"}, {strings.ToUpper(acceptAll)},
	} {
		x.get(x.r, manifest(repo, "1"), headers...).is(t, 200, x.old.Manifest).has(t, "X-Cache: HIT")
	}
	counts(t, x.r, map[string]int{" ": 0})
}
