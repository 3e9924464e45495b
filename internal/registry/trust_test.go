package registry_test

import (
	"bytes"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// basic is the Authorization header of alice.
const basic = "Authorization: Basic YWxpY2U6c2VjcmV0"

// private is a registry with one repository that is alice's and one that is everybody's.
func private(t *testing.T, world *registrytest.World) *registrytest.Registry {
	t.Helper()
	return registrytest.New(t, registrytest.Config{
		World: world, Login: registrytest.Basic, Users: map[string]string{"alice": "secret", "mallory": "guess"},
		Private: map[string][]string{"alice/app": {"alice"}},
	})
}

// A client that is logged in shares what everybody may have.
func TestALoginForWhatIsOpenSharesIt(t *testing.T) {
	t.Parallel()
	r := private(t, nil)
	img := r.PushImage("library/app", "1", registrytest.Bytes(41, 200<<10))
	h := plan{world: r.World, freshFor: time.Hour}.build(t)
	layer := img.Layers[0].Digest
	h.get(r, manifest("library/app", "1"), basic, acceptAll).is(t, 200, img.Manifest)
	h.get(r, blob("library/app", layer), basic).is(t, 200, img.Blobs[layer])
	eventually(t, "all is committed", func() bool { return h.cache.Fills() == 0 })
	r.Forget()
	h.get(r, manifest("library/app", "1"), acceptAll).is(t, 200, img.Manifest).has(t, "X-Cache: HIT")
	h.get(r, blob("library/app", layer)).is(t, 200, img.Blobs[layer]).has(t, "X-Cache: HIT")
	counts(t, r, map[string]int{" ": 0})
}

// To know a digest is not permission: a repository that does not hold it gives nothing, whoever asks.
func TestADigestOfAnotherRepositoryIsNotGivenOut(t *testing.T) {
	t.Parallel()
	a := registrytest.New(t, registrytest.Config{})
	b := registrytest.New(t, registrytest.Config{World: a.World, Name: "other.test"})
	img := a.PushImage("library/app", "1", registrytest.Bytes(42, 200<<10))
	a.PushImage("mallory/app", "1", registrytest.Bytes(43, 10))
	b.PushImage("mallory/app", "1", registrytest.Bytes(43, 10))
	h := plan{world: a.World, freshFor: time.Hour}.build(t)
	layer := img.Layers[0].Digest
	h.get(a, manifest("library/app", "1"), acceptAll).is(t, 200, nil)
	h.get(a, blob("library/app", layer)).is(t, 200, nil)
	for _, r := range []*registrytest.Registry{a, b} {
		h.get(r, manifest("mallory/app", "1"), acceptAll).is(t, 200, nil) // open, and mallory's
		for _, path := range []string{blob("mallory/app", layer), manifest("mallory/app", string(img.Digest))} {
			h.get(r, path).is(t, 404, nil)
			h.head(r, path).is(t, 404, []byte{})
		}
	}
}

// What is in flight is given to those whose registry says that it is theirs, and to nobody else.
func TestWhoMayJoinWhatIsInFlight(t *testing.T) {
	t.Parallel()
	a := registrytest.New(t, registrytest.Config{})
	b := registrytest.New(t, registrytest.Config{World: a.World, Name: "other.test"})
	body := registrytest.Bytes(51, 400<<10)
	d := a.PutBlob("library/app", body)
	a.PutBlob("library/shares", body)
	b.PutBlob("library/mirror", body)
	for _, r := range []*registrytest.Registry{a, b} {
		r.PushImage("mallory/app", "1", registrytest.Bytes(43, 10))
	}
	h := plan{world: a.World, freshFor: time.Hour}.build(t)
	for _, r := range []*registrytest.Registry{a, b} {
		h.get(r, manifest("mallory/app", "1"), acceptAll).is(t, 200, nil)
		r.Forget()
	}
	a.Set(func(f *registrytest.Faults) { f.Body.StallAfter = 300 << 10 })
	leader := make(chan answer)
	go func() { leader <- h.get(a, blob("library/app", d)) }()
	a.Await(1, "GET", string(d))
	others := make(chan answer)
	go func() { others <- h.get(a, blob("library/shares", d)) }()
	go func() { others <- h.get(b, blob("library/mirror", d)) }()
	for _, r := range []*registrytest.Registry{a, b} {
		h.get(r, blob("mallory/app", d)).is(t, 404, nil)
	}
	a.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
	(<-leader).is(t, 200, body)
	for range 2 {
		(<-others).is(t, 200, body)
	}
	if sent := a.BlobBytes(d) + b.BlobBytes(d); sent != int64(len(body)) {
		t.Errorf("%d bytes left the registries, want %d", sent, len(body))
	}
}

// With the metadata lost nobody knows who may have what is stored. Each registry delivers it once, for all its clients.
func TestARegistryProvesWhatIsStoredOnceForAll(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	body := registrytest.Bytes(46, 1<<20)
	d := r.PutBlob("library/app", body)
	h := plan{world: r.World}.build(t)
	h.get(r, blob("library/app", d)).is(t, 200, body)
	eventually(t, "the blob is committed", func() bool { return h.cache.Fills() == 0 })
	var asked atomic.Int64
	liar := newSite(t, r.World, "liar.test", func(w http.ResponseWriter, req *http.Request) {
		asked.Add(1)
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(registrytest.Bytes(47, len(body))))
	})
	h = h.forgetful()
	h.get(liar, blob("mallory/app", d)).cut(t)
	r.Forget()
	together(20, func(int) { h.get(r, blob("library/app", d)).is(t, 200, body) })
	if sent := r.BlobBytes(d); sent != int64(len(body)) {
		t.Errorf("%d bytes proved what %d do", sent, len(body))
	}
	r.Forget()
	h.get(r, blob("library/app", d)).is(t, 200, body).has(t, "X-Cache: HIT")
	counts(t, r, map[string]int{" ": 0})
	if asked.Load() == 0 {
		t.Error("the liar was never asked")
	}
}

// Central credentials that are refused are no client's to answer; what is open is to be had all the same.
func TestRefusedCentralCredentials(t *testing.T) {
	t.Parallel()
	r := private(t, nil)
	open := r.PushImage("library/app", "1", registrytest.Bytes(48, 10))
	r.PushImage("alice/app", "1", registrytest.Bytes(49, 10))
	h := plan{world: r.World, central: []string{r.Host() + " alice outdated"}}.build(t)
	a := h.get(r, manifest("alice/app", "1"), acceptAll).is(t, 403, nil).has(t, "Www-Authenticate:")
	if !strings.Contains(string(a.body), "AUTH_REGISTRIES") {
		t.Errorf("the setting is not named: %s", a.body)
	}
	h.get(r, manifest("library/app", "1"), acceptAll).is(t, 200, open.Manifest)
}

// The operator's credentials open a repository to every client, and a client's own are not sent along.
func TestCentralContentIsForEverybody(t *testing.T) {
	t.Parallel()
	r := private(t, nil)
	img := r.PushImage("alice/app", "1", registrytest.Bytes(50, 10))
	h := plan{world: r.World, central: []string{r.Host() + " alice secret"}, freshFor: time.Hour}.build(t)
	for _, headers := range [][]string{{acceptAll}, {acceptAll, "Authorization: Basic bWFsbG9yeTpndWVzcw=="}} {
		h.get(r, manifest("alice/app", "1"), headers...).is(t, 200, img.Manifest)
	}
	counts(t, r, map[string]int{"GET /manifests/1": 2}) // the challenge, and the answer to it
	for _, req := range r.Requests() {
		if strings.Contains(req.Authorization(), "bWFsbG9yeTpndWVzcw") {
			t.Error("a client's own login went along")
		}
	}
}

// A repository that was made private is nobody's to see, an hour after it was last seen to be open.
func TestMadePrivate(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{freshFor: 100 * time.Hour}, registrytest.Config{})
	x.r.Set(func(f *registrytest.Faults) { f.Registry.Status = 401 })
	x.pass(2 * time.Hour)
	for _, path := range []string{manifest(repo, "1"), manifest(repo, string(x.old.Digest)), blob(repo, x.old.Layers[0].Digest)} {
		x.get(x.r, path, acceptAll).is(t, 401, nil)
	}
}

// Names that hold each other's separators must not meet in one question.
func TestKeysDoNotCollide(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	repos := []string{"a/b", "a/b/manifests", "a", "a/blobs", "a-b", "a.b", "a_b", "a__b"}
	want := map[string][]byte{}
	for i, name := range repos {
		img := r.PushImage(name, "b", registrytest.Bytes(uint64(60+i), 10))
		want[name] = img.Manifest
	}
	h := plan{world: r.World}.build(t)
	together(4*len(repos), func(i int) {
		name := repos[i%len(repos)]
		h.get(r, manifest(name, "b"), acceptAll).is(t, 200, want[name])
	})
}
