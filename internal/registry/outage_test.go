package registry_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// A registry that hangs is waited for once, whoever asks it first. Each request that it gets is such a wait.
func TestOneWaitForARegistryThatHangs(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{giveUp: 300 * time.Millisecond}, registrytest.Config{Login: registrytest.Bearer})
	x.r.Set(func(f *registrytest.Faults) { f.Registry.Hang = true })
	pull := func(ping bool, waits int) {
		t.Helper()
		x.r.Forget()
		if ping { // as dockerd, podman and skopeo begin
			x.get(x.r, "/v2/").is(t, 200, nil)
		}
		x.head(x.r, manifest(repo, "1"), acceptAll).is(t, 200, nil).has(t, "X-Cache: STALE")
		x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE")
		x.get(x.r, manifest(repo, string(x.old.Digest)), acceptAll).is(t, 200, x.old.Manifest).has(t, "X-Cache: HIT")
		for d, body := range x.old.Blobs {
			x.get(x.r, blob(repo, d)).is(t, 200, body).has(t, "X-Cache: HIT")
		}
		counts(t, x.r, map[string]int{" ": waits})
	}
	pull(true, 1)
	pull(true, 0)
	pull(false, 0)
	x.pass(31 * time.Second)
	pull(true, 1)
	x.pass(31 * time.Second)

	// Without a ping it is the tag that is waited for, and asked for once more behind the client's back.
	x.r.Forget()
	x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE")
	x.r.Await(2, "HEAD", "/manifests/1")
	pull(false, 0)
	pull(true, 0)
}

// A registry that is always slower than clients are made to wait would keep a tag from ever moving: once a client has its
// stale answer, the registry is waited for without one.
func TestASlowRegistryStillMovesItsTags(t *testing.T) {
	t.Parallel()
	for _, slow := range []string{http.MethodHead, http.MethodGet} {
		t.Run(slow, func(t *testing.T) {
			t.Parallel()
			x := pulled(t, plan{giveUp: 300 * time.Millisecond}, registrytest.Config{})
			moved := x.retag()
			x.r.Set(func(f *registrytest.Faults) {
				f.Registry = registrytest.Outage{Hang: true, Times: 1, Only: func(r *http.Request) bool {
					return r.Method == slow && strings.Contains(r.URL.Path, "/manifests/")
				}}
			})
			x.tag().is(t, 200, x.old.Manifest).has(t, "X-Cache: STALE")
			eventually(t, "the tag moves", func() bool { return string(x.tag().body) == string(moved.Manifest) })
			counts(t, x.r, map[string]int{"HEAD /manifests/1": 2, "GET /manifests/1": 0})
		})
	}
}

// A registry that hangs is a time-out to who asks for what nobody has cached for it (RFC 9110, section 15.6.5), and so it
// is to who has to be told within a moment, since it has been seen to hang.
func TestAHungRegistryIsATimeout(t *testing.T) {
	t.Parallel()
	x := pulled(t, plan{giveUp: 300 * time.Millisecond, readTimeout: time.Second}, registrytest.Config{})
	x.r.PushImage("library/other", "1", registrytest.Bytes(20, 1<<10))
	x.r.Set(func(f *registrytest.Faults) { f.Registry.Hang = true })
	for range 2 {
		for _, path := range []string{
			manifest("library/other", "1"), manifest(repo, "2"), blob(repo, registrytest.NewImage(nil).Config.Digest),
			manifest("library/other", string(x.old.Digest)), // cached, from another repository
		} {
			x.get(x.r, path, acceptAll).is(t, 504, nil).has(t, "Retry-After: 30")
		}
	}
}
