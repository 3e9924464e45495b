package app_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// sizeOf is the sum of the sizes of all files below a directory.
func sizeOf(t testing.TB, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return ignoreGone(err)
		}
		info, err := entry.Info()
		if err == nil {
			sum += info.Size()
		}
		return ignoreGone(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// ignoreGone: files come and go while a proxy runs.
func ignoreGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// effectMaxSize: more is pulled than fits. What is there stays within the limit, every pull succeeds, and what had to
// go is fetched anew.
func effectMaxSize(t *testing.T) {
	const limit, images = 4 << 20, 12
	reg := registrytest.New(t, registrytest.Config{})
	small := start(t, reg.World, "REGISTRIES="+reg.Host(), "CACHE_MAX_SIZE=4m")
	large := start(t, reg.World, "REGISTRIES="+reg.Host(), "CACHE_MAX_SIZE=4g")
	if got := small.metric("store_limit_bytes"); got != limit {
		t.Errorf("store_limit_bytes = %v, want %d", got, limit)
	}
	var all []registrytest.Image
	for i := range images {
		img := reg.PushImage("app", "", layers(uint64(i), 1, 700_000)...)
		all = append(all, img)
		for _, h := range []*house{small, large} {
			h.pull(reg, "app", string(img.Digest))
			if got := sizeOf(t, filepath.Join(small.root, "cache")); got > limit {
				t.Errorf("after image %d the cache directory holds %d bytes, more than the limit of %d", i, got, limit)
			}
		}
		large.awaitStored(img)
	}
	reg.Forget()
	for _, img := range all {
		large.pull(reg, "app", string(img.Digest)).wantOutcomes(t, "HIT", "HIT")
	}
	if n := reg.Count("GET", "/blobs/"); n != 0 {
		t.Errorf("with room for all the registry is asked for %d blobs again, want none", n)
	}
	for _, img := range all {
		small.pull(reg, "app", string(img.Digest))
	}
	if n := reg.Count("GET", "/blobs/"); n < images/2 {
		t.Errorf("of %d images of 700 kB in 4 MiB only %d blobs had to be fetched again", images, n)
	}
	if got := small.metric("store_evicted_blobs_total", "reason", "limit"); got == 0 {
		t.Error("store_evicted_blobs_total has no eviction for the limit")
	}
}

// effectMinFree: a reserve that this disk cannot have. Nothing new is kept, everything passes through, and what was kept
// before is there still after the start.
func effectMinFree(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	first := start(t, reg.World, "REGISTRIES="+reg.Host())
	old := reg.PushImage("app", "old", layers(1, 2, 100_000)...)
	first.pull(reg, "app", "old")
	first.awaitStored(old)
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	h := plan{world: reg.World, root: first.root, environ: []string{"REGISTRIES=" + reg.Host(), "CACHE_MIN_FREE=1000000g"}}.start(t)
	for d := range old.Blobs {
		if !h.stored(d) {
			t.Errorf("the start has wiped %s", d)
		}
	}
	fresh := reg.PushImage("app", "new", layers(2, 2, 100_000)...)
	for range 2 {
		reg.Forget()
		h.pull(reg, "app", "new")
		if n := reg.Count("GET", "/blobs/"); n < 3 {
			t.Errorf("with nothing to be kept the registry saw %d GETs of blobs, want those of all 3 in each pull", n)
		}
	}
	for d := range fresh.Blobs {
		if h.stored(d) {
			t.Errorf("%s is kept although that eats the reserve", d)
		}
	}
	if got := h.metric("store_degraded"); got != 1 {
		t.Errorf("store_degraded = %v, want 1", got)
	}
	if a := h.operator("/readyz"); a.status != 200 || !strings.Contains(string(a.body), "degraded") {
		t.Errorf("/readyz: %d %s, want 200 and that it is degraded", a.status, a.body)
	}
}

// effectInactiveTime: what nobody asks for goes, after its time and not before. CACHE_INACTIVE has no say beside it.
func effectInactiveTime(t *testing.T) {
	goesInactive(t, []string{"CACHE_INACTIVE_TIME=1s", "CACHE_INACTIVE=10d"}, []string{"CACHE_INACTIVE_TIME=10d", "CACHE_INACTIVE=1s"})
}

func effectInactive(t *testing.T) {
	goesInactive(t, []string{"CACHE_INACTIVE=1s"}, []string{"CACHE_INACTIVE=10d"})
}

// goesInactive has the same image in two caches. Once one has lost it the other still has it.
func goesInactive(t *testing.T, soon, late []string) {
	reg := registrytest.New(t, registrytest.Config{})
	img := reg.PushImage("app", "1", layers(1, 2, 100_000)...)
	forgets, keeps := start(t, reg.World, append(soon, "REGISTRIES="+reg.Host())...), start(t, reg.World, append(late, "REGISTRIES="+reg.Host())...)
	for _, h := range []*house{forgets, keeps} {
		h.pull(reg, "app", "1")
		h.awaitStored(img)
	}
	for d := range img.Blobs {
		eventually(t, "a blob that nobody asks for is gone", func() bool { return !forgets.stored(d) })
		if !keeps.stored(d) {
			t.Errorf("with %q %s is gone", late, d)
		}
	}
	if got := forgets.metric("store_evicted_blobs_total", "reason", "inactive"); got < float64(len(img.Blobs)) {
		t.Errorf("store_evicted_blobs_total counts %v for inactivity, want at least %d", got, len(img.Blobs))
	}
}

// effectCacheDirectory: the bytes are there, under their names, for any other tool to read.
func effectCacheDirectory(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	img := reg.PushImage("app", "1", layers(1, 2, 100_000)...)
	dir := filepath.Join(t.TempDir(), "new", "cache")
	h := start(t, reg.World, "REGISTRIES="+reg.Host(), "CACHE_DIRECTORY="+dir)
	h.pull(reg, "app", "1")
	for d := range img.Blobs {
		path := filepath.Join(dir, "blobs", "sha256", d.Hex()[:2], d.Hex())
		eventually(t, path+" is there", func() bool { _, err := os.Stat(path); return err == nil })
		if content, err := os.ReadFile(path); err != nil || oci.FromBytes(content) != d {
			t.Errorf("%s has other bytes than its name says, %v", path, err)
		}
	}
}

// tagHouse is a registry with a tag of each tier, and a proxy that has pulled them once.
func tagHouse(t *testing.T, environ ...string) (*house, *registrytest.Registry) {
	t.Helper()
	reg := registrytest.New(t, registrytest.Config{})
	h := start(t, reg.World, append([]string{"REGISTRIES=" + reg.Host()}, environ...)...)
	for i, tag := range []string{"stable", "1.2.3", "latest"} {
		reg.PushImage("app", tag, layers(uint64(i), 1, 1000)...)
		h.pull(reg, "app", tag).wantOutcomes(t, "MISS", "MISS")
	}
	reg.Forget()
	return h, reg
}

// tiers says what a second pull of each tag is: the tier it falls into, and whether the registry is asked for it with a
// HEAD. It is never asked with a GET.
type tiers map[string]struct {
	tier  string
	asked bool
}

func (want tiers) check(t *testing.T, h *house, reg *registrytest.Registry) {
	t.Helper()
	for tag, w := range want {
		a := h.pull(reg, "app", tag).answers[0]
		outcome := map[bool]string{true: "REVALIDATED", false: "HIT"}[w.asked]
		if got := a.header.Get("X-Container-Registry-Proxy-Cache-Type"); got != w.tier || a.outcome() != outcome {
			t.Errorf("tag %s is of %q and %s, want %q and %s", tag, got, a.outcome(), w.tier, outcome)
		}
		if got, want := reg.Count("HEAD", "/manifests/"+tag), map[bool]int{true: 1, false: 0}[w.asked]; got != want {
			t.Errorf("the registry saw %d HEADs of %s, want %d", got, tag, want)
		}
	}
	if got := reg.Count("GET", "/manifests/"); got != 0 {
		t.Errorf("the registry saw %d GETs of tags that have not moved, want none", got)
	}
}

func effectManifestCache(t *testing.T) {
	h, reg := tagHouse(t, "ENABLE_MANIFEST_CACHE=true")
	tiers{"stable": {"manifest-primary", false}, "1.2.3": {"manifest-secondary", false}, "latest": {"manifest-default", false}}.check(t, h, reg)
	off, reg := tagHouse(t)
	const disabled = "manifest-default-disabled"
	tiers{"stable": {disabled, true}, "1.2.3": {disabled, true}, "latest": {disabled, true}}.check(t, off, reg)
}

func effectPrimaryRegex(t *testing.T) {
	h, reg := tagHouse(t, "ENABLE_MANIFEST_CACHE=true", "MANIFEST_CACHE_PRIMARY_REGEX=(late)", "MANIFEST_CACHE_PRIMARY_TIME=0")
	tiers{"stable": {"manifest-default", false}, "1.2.3": {"manifest-secondary", false}, "latest": {"manifest-primary", true}}.check(t, h, reg)
}

func effectPrimaryTime(t *testing.T) {
	h, reg := tagHouse(t, "ENABLE_MANIFEST_CACHE=true", "MANIFEST_CACHE_PRIMARY_TIME=1ms")
	tiers{"stable": {"manifest-primary", true}, "1.2.3": {"manifest-secondary", false}, "latest": {"manifest-default", false}}.check(t, h, reg)
}

func effectSecondaryRegex(t *testing.T) {
	h, reg := tagHouse(t, "ENABLE_MANIFEST_CACHE=true", "MANIFEST_CACHE_SECONDARY_REGEX=latest$", "MANIFEST_CACHE_SECONDARY_TIME=0")
	tiers{"stable": {"manifest-primary", false}, "1.2.3": {"manifest-default", false}, "latest": {"manifest-secondary", true}}.check(t, h, reg)
}

func effectSecondaryTime(t *testing.T) {
	h, reg := tagHouse(t, "ENABLE_MANIFEST_CACHE=true", "MANIFEST_CACHE_SECONDARY_TIME=1ms")
	tiers{"stable": {"manifest-primary", false}, "1.2.3": {"manifest-secondary", true}, "latest": {"manifest-default", false}}.check(t, h, reg)
}

// effectDefaultTime also has a tag move: while it is fresh nobody notices, once it is stale the next pull does.
func effectDefaultTime(t *testing.T) {
	h, reg := tagHouse(t, "ENABLE_MANIFEST_CACHE=true", "MANIFEST_CACHE_DEFAULT_TIME=0")
	tiers{"stable": {"manifest-primary", false}, "1.2.3": {"manifest-secondary", false}, "latest": {"manifest-default", true}}.check(t, h, reg)
	for _, tag := range []string{"stable", "latest"} {
		moved := reg.PushImage("app", tag, layers(99, 1, 1000)...)
		if got := h.pull(reg, "app", tag).desc.Digest == moved.Digest; got != (tag == "latest") {
			t.Errorf("tag %s has moved: noticed = %v, want only of the one that is not fresh", tag, got)
		}
	}
}

func effectDefaultRegistry(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	img := reg.PushImage("team/app", "1", layers(1, 1, 1000)...)
	h := start(t, reg.World, "REGISTRIES="+reg.Host(), "DEFAULT_REGISTRY="+reg.Host())
	a := h.local("GET", "/v2/team/app/manifests/1", "Accept", strings.Join(accepted, ", ")).expect(t, 200)
	if oci.FromBytes(a.body) != img.Digest {
		t.Errorf("a request that names no registry got %.100q, want the image of DEFAULT_REGISTRY", a.body)
	}
}

func effectMirrorAll(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	img := reg.PushImage("team/app", "1", layers(1, 1, 1000)...)
	path := "/v2/" + reg.Host() + "/team/app/manifests/1"
	h := start(t, reg.World, "MIRROR_ALL_REGISTRIES=true")
	if a := h.local("GET", path, "Accept", strings.Join(accepted, ", ")).expect(t, 200); oci.FromBytes(a.body) != img.Digest {
		t.Errorf("a registry that is not configured gave %.100q, want its image", a.body)
	}
	start(t, reg.World).local("GET", path).expect(t, 403, "DENIED", "MIRROR_ALL_REGISTRIES")
}
