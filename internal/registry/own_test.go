package registry_test

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

const (
	asMallory = "Authorization: Basic bWFsbG9yeTpndWVzcw=="
	asWrong   = "Authorization: Basic YWxpY2U6d3Jvbmc="
)

// strangers are those who may not have what is alice's: without a login, with a wrong one, with another's, with a token
// that nobody gave out.
var strangers = [][]string{nil, {asWrong}, {asMallory}, {"Authorization: Bearer x"}, {"Authorization: Basic Og=="}}

// none fails the test if an answer is a success or holds a piece of the content.
func (a answer) none(t testing.TB, content []byte) {
	t.Helper()
	if a.err == nil && a.status < 400 {
		t.Errorf("%s: status %d", a.what, a.status)
	}
	if i := leak(a.body, content); i >= 0 {
		t.Fatalf("%s: has the owner's bytes at %d", a.what, i)
	}
}

const block = 16

// known has the blocks of contents, by their first one: there are few, and many answers to look through.
var known sync.Map

func blocksOf(content []byte) map[[block]byte]bool {
	once, _ := known.LoadOrStore([block]byte(content), sync.OnceValue(func() map[[block]byte]bool {
		blocks := map[[block]byte]bool{}
		for i := 0; i+block <= len(content); i += block {
			blocks[[block]byte(content[i:i+block])] = true
		}
		return blocks
	}))
	return once.(func() map[[block]byte]bool)()
}

// leak is where a body has bytes of a content, -1 where it has none. It misses less than a KiB of a long body.
func leak(body, content []byte) int {
	if len(content) < block || len(body) < block {
		return -1
	}
	blocks := blocksOf(content)
	for i := 0; i+block <= len(body); i++ {
		if len(body) > 16<<10 && i%512 == block {
			i += 512 - block - 1
			continue
		}
		if blocks[[block]byte(body[i:i+block])] {
			return i
		}
	}
	return -1
}

// What alice fetches with her own login is kept, and given to those alone whose login the registry takes for it.
func TestOwnContentIsKeptForThoseWhoMayPullIt(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{
		Login: registrytest.Basic, Users: map[string]string{"alice": "secret", "bob": "b", "mallory": "guess"},
		Private: map[string][]string{"alice/app": {"alice", "bob"}},
	})
	img := r.PushImage("alice/app", "1", registrytest.Bytes(40, 2<<20))
	h := plan{world: r.World, freshFor: time.Hour}.build(t)
	layer := img.Layers[0].Digest
	content := map[string][]byte{
		manifest("alice/app", "1"): img.Manifest, manifest("alice/app", string(img.Digest)): img.Manifest, blob("alice/app", layer): img.Blobs[layer],
	}
	for _, who := range []string{basic, "Authorization: Basic Ym9iOmI="} {
		for path, body := range content {
			for range 2 {
				h.get(r, path, who, acceptAll).is(t, 200, body)
				h.head(r, path, who, acceptAll).is(t, 200, nil)
			}
		}
	}
	eventually(t, "all is committed", func() bool { return h.cache.Fills() == 0 })
	counts(t, r, map[string]int{"GET /manifests/1": 1, "GET /blobs/": 1})
	for path, body := range content {
		for _, other := range strangers {
			h.get(r, path, append(other, acceptAll)...).none(t, body)
			h.head(r, path, append(other, acceptAll)...).none(t, body)
		}
		h.get(r, path, asMallory).is(t, 403, nil)
	}
	r.Forget()
	for path, body := range content {
		h.get(r, path, basic, acceptAll).is(t, 200, body).has(t, "X-Cache: HIT")
	}
	counts(t, r, map[string]int{" ": 0})
	if strings.Contains(h.log.String(), "YWxpY2U6c2VjcmV0") || strings.Contains(h.log.String(), "secret") {
		t.Error("the login is in the log")
	}
}

// Hundreds of clients at once for one cold blob: the good get it, for one download; nobody else gets a byte.
func TestAHerdOfGoodAndBad(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{
		Login: registrytest.Basic, Users: map[string]string{"alice": "secret", "bob": "b", "mallory": "guess"},
		Private: map[string][]string{"alice/app": {"alice", "bob"}},
	})
	body := registrytest.Bytes(41, 3<<20)
	d := r.PutBlob("alice/app", body)
	h := plan{world: r.World}.build(t)
	path := blob("alice/app", d)
	together(300, func(i int) {
		switch i % 6 {
		case 0:
			h.get(r, path, basic).is(t, 200, body)
		case 1:
			h.get(r, path, "Authorization: Basic Ym9iOmI=").is(t, 200, body)
		default:
			h.get(r, path, strangers[i%6-2]...).none(t, body)
		}
	})
	if sent := r.BlobBytes(d); sent != int64(len(body)) {
		t.Errorf("%d bytes left the registry for %d", sent, len(body))
	}
}

// What the registry takes back it gives out no more: after the grace, which a restart does not extend.
func TestARevocationBites(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		r := private(t, nil)
		img := r.PushImage("alice/app", "1", registrytest.Bytes(42, 300<<10))
		h := plan{world: r.World, freshFor: 100 * time.Hour}.build(t)
		layer := img.Layers[0].Digest
		h.get(r, manifest("alice/app", "1"), basic, acceptAll).is(t, 200, nil)
		h.get(r, blob("alice/app", layer), basic).is(t, 200, nil)
		eventually(t, "all is committed", func() bool { return h.cache.Fills() == 0 })
		r.SetPassword("alice", "another")
		r.Forget()
		h.pass(4 * time.Minute)
		if restart {
			h = h.again()
		}
		h.get(r, blob("alice/app", layer), basic).is(t, 200, nil)
		counts(t, r, map[string]int{" ": 0})
		h.pass(65 * time.Second)
		for range 20 {
			h.get(r, blob("alice/app", layer), basic).is(t, 401, nil)
			h.get(r, manifest("alice/app", "1"), basic, acceptAll).is(t, 401, nil)
			h.head(r, manifest("alice/app", "1"), basic, acceptAll).is(t, 401, nil)
		}
		h.get(r, blob("alice/app", layer), "Authorization: Basic YWxpY2U6YW5vdGhlcg==").is(t, 200, nil).has(t, "X-Cache: HIT")
	}
}

// With the registry unreachable in any of its ways, what a client's login was good for within the hour is served, to
// that login alone; a restart of the proxy changes nothing. Everything else is 503 with a time to come back, or 504 where
// the registry has been waited for.
func TestOwnContentInAnOutage(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]registrytest.Outage{
		"reset": {Down: true}, "503": {Status: 503}, "silent": {HangAccept: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			unavailable := http.StatusServiceUnavailable
			if outage.HangAccept {
				unavailable = http.StatusGatewayTimeout
			}
			r := private(t, nil)
			img := r.PushImage("alice/app", "1", registrytest.Bytes(43, 300<<10))
			h := plan{world: r.World, giveUp: 2 * time.Second}.build(t)
			layer := img.Layers[0].Digest
			ping := h.get(r, "/v2/").is(t, 401, nil)
			h.get(r, manifest("alice/app", "1"), basic, acceptAll).is(t, 200, nil)
			h.get(r, blob("alice/app", layer), basic).is(t, 200, nil)
			eventually(t, "all is committed", func() bool { return h.cache.Fills() == 0 })
			r.Set(func(f *registrytest.Faults) { f.Registry = outage })
			h.upstream.CloseIdleConnections()
			h = h.again()
			h.pass(50 * time.Minute)
			h.get(r, "/v2/").is(t, 401, nil).has(t, "Www-Authenticate: "+ping.header.Get("Www-Authenticate"))
			h.get(r, "/v2/", basic).is(t, 200, nil)
			h.get(r, "/v2/", asWrong).is(t, 503, nil).has(t, "Retry-After: 30")
			h.get(r, manifest("alice/app", "1"), basic, acceptAll).is(t, 200, img.Manifest)
			h.get(r, manifest("alice/app", string(img.Digest)), basic, acceptAll).is(t, 200, img.Manifest)
			h.get(r, blob("alice/app", layer), basic).is(t, 200, img.Blobs[layer])
			for _, other := range [][]string{nil, {asWrong}} {
				for _, path := range []string{blob("alice/app", layer), manifest("alice/app", "1")} {
					a := h.get(r, path, append(other, acceptAll)...)
					if a.status != unavailable || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), oci.CodeUnavailable) {
						t.Errorf("%s: %d %v %s", a.what, a.status, a.header, a.body)
					}
				}
			}
			h.pass(11 * time.Minute)
			h.get(r, blob("alice/app", layer), basic).is(t, unavailable, nil)
			r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
			h.pass(time.Minute)
			h.get(r, blob("alice/app", layer), basic).is(t, 200, img.Blobs[layer]).has(t, "X-Cache: HIT")
			h.get(r, "/v2/", asWrong).is(t, 401, nil)
		})
	}
}

// A bearer registry's clients are not sent to a token service that cannot be reached, and get what is open.
func TestTheTokenServiceIsDown(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{
		Login: registrytest.Bearer, Users: map[string]string{"alice": "secret"}, Private: map[string][]string{"alice/app": {"alice"}},
	})
	open := r.PushImage("library/app", "1", registrytest.Bytes(44, 1000))
	r.PushImage("alice/app", "1", registrytest.Bytes(45, 1000))
	h := plan{world: r.World, giveUp: 2 * time.Second}.build(t)
	h.get(r, "/v2/").is(t, 401, nil)
	h.get(r, manifest("library/app", "1"), acceptAll).is(t, 200, open.Manifest)
	r.Set(func(f *registrytest.Faults) { f.Registry.Down, f.Token.Down = true, true })
	h = h.again()
	h.get(r, "/v2/").is(t, 200, nil).has(t, "Www-Authenticate:", "Docker-Distribution-Api-Version: registry/2.0")
	h.get(r, manifest("library/app", "1"), acceptAll).is(t, 200, open.Manifest)
	h.get(r, manifest("library/app", "1"), acceptAll, "Authorization: Bearer unknown").is(t, 200, open.Manifest)
	h.get(r, manifest("alice/app", "1"), acceptAll).is(t, 503, nil).has(t, "Retry-After: 30")
}

// attack is a house where alice has pulled, or is pulling, what only she may have, and where somebody else knows its
// digest.
type attack struct {
	*house
	owner  *registrytest.Registry
	secret []byte
	digest oci.Digest
}

func newAttack(t *testing.T) *attack {
	owner := private(t, nil)
	owner.PushImage("mallory/app", "1", registrytest.Bytes(50, 10)) // everybody's
	a := &attack{owner: owner, secret: registrytest.Bytes(51, 3<<20)}
	a.digest = owner.PutBlob("alice/app", a.secret)
	a.house = plan{world: owner.World}.build(t)
	return a
}

// stages has the attacker try before alice's first pull, while it is in flight, after it broke off, and once all of it is
// cached.
func (a *attack) stages(t *testing.T, try func(when string)) {
	t.Helper()
	path := blob("alice/app", a.digest)
	try("before the first pull")
	a.owner.Set(func(f *registrytest.Faults) { f.Body.StallAfter = 2 << 20 })
	done := make(chan answer)
	go func() { done <- a.get(a.owner, path, basic) }()
	a.owner.Await(1, "GET", string(a.digest))
	try("in flight")
	a.house.stop() // the proxy ends, and leaves two thirds of it in staging
	<-done
	a.owner.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
	a.house = a.plan.build(t)
	try("left in staging")
	// Whoever joins a download that turns out to be a lie is cut off with it, and asks again.
	eventually(t, "what the attacker began has ended", func() bool { return a.cache.Fills() == 0 })
	// What it left in staging costs alice's next pull its place in the cache, at most, and not the one after it.
	for range 2 {
		a.get(a.owner, path, basic).is(t, 200, a.secret)
		eventually(t, "the fill has ended", func() bool { return a.cache.Fills() == 0 })
	}
	a.get(a.owner, path, basic).is(t, 200, a.secret).has(t, "X-Cache: HIT")
	try("cached")
	a.house = a.forgetful()
	try("cached, and nobody knows whose it is")
	a.owner.Forget()
	a.get(a.owner, path, basic).is(t, 200, a.secret)
}

// An attacker's own public repository on the same registry.
func TestAnAttackersOwnRepository(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	a.stages(t, func(string) {
		for _, who := range append(strangers, []string{asMallory, "Range: bytes=0-99"}) {
			for _, path := range []string{blob("mallory/app", a.digest), blob("alice/app", a.digest), manifest("mallory/app", string(a.digest))} {
				a.head(a.owner, path, who...).none(t, a.secret)
				a.get(a.owner, path, who...).none(t, a.secret)
			}
		}
	})
}

// An attacker's own registry, open or with a login, that says yes to every HEAD and knows nothing, or the beginning.
func TestAnAttackersOwnRegistry(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	var mu sync.Mutex
	handlers := map[string]http.HandlerFunc{}
	lies := map[string][]byte{"nothing": registrytest.Bytes(52, len(a.secret)), "the beginning": a.secret[:100_000]}
	var sites []host
	for name, lie := range lies {
		for _, login := range []bool{false, true} {
			handler := func(w http.ResponseWriter, req *http.Request) {
				if login && req.Header.Get("Authorization") == "" {
					w.WriteHeader(401)
					return
				}
				w.Header().Set("Docker-Content-Digest", string(a.digest))
				if req.Method == http.MethodHead {
					w.Header().Set("Content-Length", "3145728")
					w.WriteHeader(200)
					return
				}
				http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(lie))
			}
			site := strings.ReplaceAll(name, " ", "-") + map[bool]string{true: ".login.test", false: ".open.test"}[login]
			mu.Lock()
			handlers[site] = handler
			mu.Unlock()
			sites = append(sites, newSite(t, a.owner.World, site, handler))
		}
	}
	a.stages(t, func(when string) {
		for _, liar := range sites {
			for _, headers := range [][]string{nil, {asMallory}, {asMallory, "Range: bytes=2000000-2000099"}, {"Range: bytes=200000-"}} {
				for _, path := range []string{blob("mallory/app", a.digest), manifest("mallory/app", string(a.digest))} {
					a.head(liar, path, headers...)
					got := a.get(liar, path, headers...)
					if i := leak(got.body, a.secret[100_000:]); i >= 0 { // the beginning the attacker has
						t.Fatalf("%s, %s of %s: has the owner's bytes at %d", when, got.what, liar.Host(), i)
					}
				}
			}
		}
	})
}

// A login that the registry does not take gives way to the next one that waits.
func TestTheNextLoginIsTried(t *testing.T) {
	t.Parallel()
	r := private(t, nil)
	body := registrytest.Bytes(53, 100<<10)
	d := r.PutBlob("alice/app", body)
	h := plan{world: r.World}.build(t)
	path := blob("alice/app", d)
	h.get(r, path, asWrong).none(t, body) // it is known not to be open
	r.Set(func(f *registrytest.Faults) {
		f.Registry = registrytest.Outage{Hang: true, Only: func(req *http.Request) bool { return strings.Contains(req.Header.Get("Authorization"), "d3Jvbmc=") }}
	})
	r.Forget()
	bad := make(chan answer)
	go func() { bad <- h.get(r, path, asWrong) }()
	r.Await(1, "GET", string(d))
	good := make(chan answer)
	go func() { good <- h.get(r, path, basic) }()
	r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
	(<-good).is(t, 200, body)
	(<-bad).none(t, body)
}

// The operator's credentials do not open what a client's own did.
func TestWhatCentralCredentialsDoNotOpenStaysTheClients(t *testing.T) {
	t.Parallel()
	r := private(t, nil)
	img := r.PushImage("alice/app", "1", registrytest.Bytes(54, 300<<10))
	layer := img.Layers[0].Digest
	h := plan{world: r.World, central: []string{r.Host() + " mallory guess"}, allowOwn: true, freshFor: time.Hour}.build(t)
	paths := map[string][]byte{manifest("alice/app", "1"): img.Manifest, blob("alice/app", layer): img.Blobs[layer]}
	for path, body := range paths {
		h.get(r, path, basic, acceptAll).is(t, 200, body)
	}
	eventually(t, "all is committed", func() bool { return h.cache.Fills() == 0 })
	for path, body := range paths {
		h.get(r, path, basic, acceptAll).is(t, 200, body).has(t, "X-Cache: HIT")
		for _, other := range strangers {
			h.get(r, path, append(other, acceptAll)...).none(t, body)
		}
	}
	h.allowOwn = false
	h = h.again()
	for path, body := range paths {
		h.get(r, path, basic, acceptAll).none(t, body) // what a client brings is ignored
	}
}

// ALLOW_OWN_AUTH: the ping says how to log in, the client's own login goes first, the operator's second, an empty one
// is none.
func TestOwnLoginsBesideCentralOnes(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{
		Login: registrytest.Basic, Users: map[string]string{"alice": "secret", "central": "c"},
		Private: map[string][]string{"alice/app": {"alice"}, "central/app": {"central"}},
	})
	hers := r.PushImage("alice/app", "1", registrytest.Bytes(55, 10))
	theirs := r.PushImage("central/app", "1", registrytest.Bytes(56, 10))
	h := plan{world: r.World, central: []string{r.Host() + " central c"}}.build(t)
	h.get(r, "/v2/").is(t, 200, nil).has(t, "Docker-Distribution-Api-Version: registry/2.0", "Www-Authenticate:")
	h.get(r, manifest("alice/app", "1"), basic, acceptAll).is(t, 403, nil)
	counts(t, r, map[string]int{"GET /v2/": r.Count("GET", "/manifests/")})
	for _, req := range r.Requests() {
		if strings.Contains(req.Authorization(), "YWxpY2U") {
			t.Error("the client's own login went along")
		}
	}
	h.stop()
	for name, p := range map[string]plan{"ALLOW_OWN_AUTH": {allowOwn: true}, "ALLOW_PUSH": {allowPush: true}, "ALLOW_PUSH_WITH_OWN_AUTH": {pushWithOwn: true}} {
		p.world, p.central = r.World, []string{r.Host() + " central c"}
		h := p.build(t)
		a := h.get(r, "/v2/").is(t, 401, nil)
		if !strings.HasPrefix(a.header.Get("Www-Authenticate"), "Basic") {
			t.Errorf("%s: a ping without a login gets %v, want the registry's challenge", name, a.header)
		}
		h.get(r, "/v2/", "Authorization: Basic Og==").is(t, 401, nil)
		h.get(r, "/v2/", basic).is(t, 200, nil)
		h.get(r, "/v2/", asWrong).is(t, 401, nil)
		r.Forget()
		h.get(r, manifest("alice/app", "1"), basic, acceptAll).is(t, 200, hers.Manifest)
		h.get(r, "/v2/alice/app/tags/list", basic).is(t, 200, nil)
		h.get(r, manifest("central/app", "1"), basic, acceptAll).is(t, 200, theirs.Manifest)
		h.get(r, "/v2/central/app/tags/list", basic).is(t, 200, nil)
		if first := r.Find(func(req registrytest.Request) bool { return req.Authorization() != "" })[0]; !strings.Contains(req(first), "YWxpY2U") {
			t.Errorf("%s: %s was asked with %q first", name, first.Path, first.Authorization())
		}
		for _, other := range [][]string{nil, {asWrong}, {"Authorization: Basic Og=="}} {
			h.get(r, manifest("central/app", "1"), append(other, acceptAll)...).is(t, 200, theirs.Manifest)
			h.get(r, manifest("alice/app", "1"), append(other, acceptAll)...).none(t, hers.Manifest)
		}
	}
}

func req(r registrytest.Request) string { return r.Authorization() }

// ALLOW_PUSH_WITH_OWN_AUTH: a push that brings a login passes, one without learns how to log in; push: central lends the
// operator's to those that bring none.
func TestWhoMayPush(t *testing.T) {
	t.Parallel()
	for _, login := range []registrytest.Login{registrytest.Basic, registrytest.Bearer} {
		r := registrytest.New(t, registrytest.Config{
			Login: login, Users: map[string]string{"alice": "secret", "central": "c"}, Private: map[string][]string{"team/app": {"alice", "central"}},
		})
		central := []string{r.Host() + " central c"}
		start := func(h *house, headers ...string) answer {
			return h.send(t.Context(), "POST", r, "/v2/team/app/blobs/uploads/", nil, headers...)
		}
		h := plan{world: r.World, central: central, pushWithOwn: true}.build(t)
		a := start(h).is(t, 401, nil)
		challenge := a.header.Get("Www-Authenticate")
		if login == registrytest.Basic {
			start(h, basic).is(t, 202, nil)
			start(h, asWrong).is(t, 401, nil)
		} else if !strings.Contains(challenge, `scope="repository:team/app:pull,push"`) || !strings.Contains(challenge, "realm=") {
			t.Errorf("a push without a login gets the challenge %q", challenge)
		}
		if n := r.Count("POST", "/blobs/uploads/"); login == registrytest.Bearer && n != 0 {
			t.Errorf("%d pushes without a login reached the registry", n)
		}
		h = plan{world: r.World, central: central, allowPush: true}.build(t)
		start(h).is(t, 401, nil)
		h = plan{world: r.World, central: central, allowPush: true, pushCentral: true}.build(t)
		start(h).is(t, 202, nil)
		h = plan{world: r.World, central: central, pushCentral: true}.build(t)
		start(h).is(t, 405, nil)
	}
}
