package app_test

import (
	"runtime"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// effectPins: what is pinned survives a flood that would take the whole cache, a restart, and its deletion upstream. What
// is not goes.
func effectPins(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	yaml := "registries: " + reg.Host() + "\npins: [" + reg.Host() + "/team/pinned:1]\ncache_max_size: 4m\n"
	h := configured(t, reg.World, yaml)
	pinned := reg.PushIndex("team/pinned", "1", []string{"amd64"}, registrytest.Bytes(1, 300_000))
	other := reg.PushImage("team/other", "1", registrytest.Bytes(2, 300_000))
	h.pull(reg, "team/pinned", "1")
	h.pull(reg, "team/other", "1")
	h.awaitStored(pinned.Images[0], other)
	flood := func(h *house, from int) {
		for i := range 14 {
			img := reg.PushImage("flood", "", registrytest.Bytes(uint64(from+i), 700_000))
			for range 3 { // more wanted than what is pinned
				h.pull(reg, "flood", string(img.Digest))
			}
		}
	}
	flood(h, 100)
	all := []oci.Digest{pinned.Digest, pinned.Images[0].Digest}
	for d := range pinned.Images[0].Blobs {
		all = append(all, d)
	}
	check := func(h *house, when string) {
		t.Helper()
		for _, d := range all {
			if !h.stored(d) {
				t.Errorf("%s: %s of a pinned image is gone", when, d)
			}
		}
	}
	check(h, "after a flood")
	if h.stored(other.Layers[0].Digest) {
		t.Error("a flood takes nothing: the test shows nothing")
	}
	if err := h.close(); err != nil {
		t.Fatal(err)
	}
	again := plan{world: reg.World, root: h.root, environ: []string{"CONFIG_FILE=" + h.config}}.start(t)
	flood(again, 200)
	check(again, "after a restart and a flood")
	reg.DeleteRepository("team/pinned")
	if p := again.pull(reg, "team/pinned", "1"); p.desc.Digest != pinned.Digest {
		t.Errorf("deleted upstream: %s, want %s", p.desc.Digest, pinned.Digest)
	}
}

// effectWarm: images are in the cache before anybody has asked for them.
func effectWarm(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	idx := reg.PushIndex("team/app", "1", []string{runtime.GOARCH, other}, registrytest.Bytes(1, 100_000))
	h := configured(t, reg.World, "registries: "+reg.Host()+"\nwarm:\n  - images: ["+reg.Host()+"/none, "+reg.Host()+"/team/app:1]\n    every: 1h\n")
	h.awaitStored(idx.Images[0])
	eventually(t, "the log says so", func() bool {
		return len(filter(h.log.lines(t), func(l line) bool { return l.Msg == "images are warm" })) == 1
	})
	if h.stored(idx.Images[1].Digest) {
		t.Error("an image for another platform is warm too")
	}
	reg.Forget()
	h.pull(reg, "team/app", "1").wantOutcomes(t, "REVALIDATED", "HIT")
	if n := reg.Count("GET", ""); n != 0 {
		t.Errorf("a pull of what is warm: the registry saw %q", registrytest.Paths(reg.Requests()))
	}
}

// effectPrefetch: a client that asks for a manifest finds the layers, those of its platform alone.
func effectPrefetch(t *testing.T) {
	for _, on := range []bool{true, false} {
		reg := registrytest.New(t, registrytest.Config{})
		idx := reg.PushIndex("team/app", "1", []string{"amd64", "arm64"}, registrytest.Bytes(1, 100_000))
		h := start(t, reg.World, "REGISTRIES="+reg.Host(), "PREFETCH_LAYERS="+map[bool]string{true: "true", false: "false"}[on])
		for _, ref := range []string{"1", string(idx.Images[1].Digest)} {
			h.ask("GET", reg.URL()+"/v2/team/app/manifests/"+ref, "Accept", registrytest.TypeIndex+", "+registrytest.TypeManifest).expect(t, 200)
		}
		if on {
			h.awaitStored(idx.Images[1])
			if h.stored(idx.Images[0].Config.Digest) {
				t.Error("another platform's image is fetched too")
			}
			continue
		}
		if n := reg.Count("GET", "/blobs/"); n != 0 {
			t.Errorf("not asked to, the proxy has fetched %d blobs", n)
		}
	}
}
