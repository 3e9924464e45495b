package access

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

const (
	reg    = oci.Registry("registry.test")
	digest = oci.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
)

var (
	byTag    = oci.Path{Kind: oci.KindManifest, Repository: "team/app", Tag: "1"}
	byDigest = oci.Path{Kind: oci.KindBlob, Repository: "team/app", Digest: digest}
	alice    = Caller{Authorization: secret.New("Bearer alice")}
	nobody   = Caller{}
)

// world is a registry that gives everybody the same status, and what asks it.
type world struct {
	*Access
	mu      sync.Mutex
	status  map[string]int // by method; 0 means unreachable
	asked   []string
	now     time.Time
	central bool
	delay   time.Duration
}

func newWorld() *world {
	w := &world{status: map[string]int{"HEAD": 200, "GET": 200}, now: time.Unix(1e9, 0)}
	w.Access = New(Config{
		Registries: w, Metadata: metadata.New(&mapDB{}),
		HasCentral: func(oci.Registry) bool { return w.central },
		Now:        func() time.Time { return w.now },
	})
	return w
}

func (w *world) Do(_ context.Context, req upstream.Request) (*http.Response, error) {
	time.Sleep(w.delay)
	w.mu.Lock()
	defer w.mu.Unlock()
	who := "nobody"
	switch {
	case req.As.IsCentral():
		who = "central"
	case req.As.IsOwn():
		who = "own"
	}
	w.asked = append(w.asked, req.Method+" "+req.Path+" as "+who)
	status := w.status[req.Method]
	if status == 0 {
		return nil, &upstream.UnreachableError{Registry: req.Registry, Err: errors.New("connection refused")}
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}, nil
}

// mapDB is a database in memory.
type mapDB struct{ m sync.Map }

func (db *mapDB) Get(bucket, key string) ([]byte, bool) {
	v, ok := db.m.Load(bucket + "\x01" + key)
	if !ok {
		return nil, false
	}
	return v.([]byte), true
}

func (db *mapDB) Put(bucket, key string, value []byte)          { db.m.Store(bucket+"\x01"+key, value) }
func (db *mapDB) Delete(bucket, key string)                     { db.m.Delete(bucket + "\x01" + key) }
func (db *mapDB) Scan(_, _ string, _ func(string, []byte) bool) {}

func TestClasses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		central bool
		head    int
		caller  Caller
		want    Class
		as      auth.Identity
		asked   int
	}{
		{"the operator's credentials make it central", true, 401, nobody, Central, auth.Central, 0},
		{"central ignores what the client sends", true, 401, alice, Central, auth.Central, 0},
		{"a login for what everybody may see is open", false, 200, alice, Open, auth.Anonymous, 1},
		{"a redirect to storage is open", false, 307, alice, Open, auth.Anonymous, 1},
		{"a login for what nobody may see is the client's own", false, 401, alice, Own, auth.Own(alice.Authorization), 1},
		{"403 is not open", false, 403, alice, Own, auth.Own(alice.Authorization), 1},
		{"404 is not open", false, 404, alice, Own, auth.Own(alice.Authorization), 1},
		{"a rate limit says nothing", false, 429, alice, Own, auth.Own(alice.Authorization), 1},
		{"an outage says nothing", false, 0, alice, Own, auth.Own(alice.Authorization), 1},
		{"without a login the registry is asked as nobody", false, 401, nobody, Open, auth.Anonymous, 0},
	} {
		w := newWorld()
		w.central, w.status["HEAD"] = tc.central, tc.head
		g := w.Grant(t.Context(), tc.caller, reg, byTag)
		if g.Class != tc.want || g.As.Key() != tc.as.Key() || len(w.asked) != tc.asked {
			t.Errorf("%s: %v as %x after asking %q, want %v", tc.name, g.Class, g.As.Key(), w.asked, tc.want)
		}
		for _, q := range w.asked {
			if !strings.HasSuffix(q, "as nobody") {
				t.Errorf("%s: openness was asked for with credentials: %s", tc.name, q)
			}
		}
	}
}

func TestARegistryWithoutHeadIsAskedWithOneGet(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.status["HEAD"] = 405
	if g := w.Grant(t.Context(), alice, reg, byTag); g.Class != Open {
		t.Errorf("class %v after %q", g.Class, w.asked)
	}
	w = newWorld()
	w.status["HEAD"], w.status["GET"] = 405, 401
	if g := w.Grant(t.Context(), alice, reg, byTag); g.Class != Own {
		t.Errorf("class %v after %q", g.Class, w.asked)
	}
}

func TestAnAnswerIsBelievedForAnHour(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.Grant(t.Context(), alice, reg, byTag)
	w.now = w.now.Add(59 * time.Minute)
	w.status["HEAD"] = 401
	if g := w.Grant(t.Context(), alice, reg, byTag); g.Class != Open || len(w.asked) != 1 {
		t.Errorf("within the hour: %v after %q", g.Class, w.asked)
	}
	w.now = w.now.Add(2 * time.Minute)
	if g := w.Grant(t.Context(), alice, reg, byTag); g.Class != Own {
		t.Errorf("made private, after the hour: %v", g.Class)
	}
	if err := w.Confirm(t.Context(), w.Grant(t.Context(), nobody, reg, byTag), byTag); err == nil {
		t.Error("made private, after the hour: nobody in particular is still given what is cached")
	}
}

func TestAnOutageLetsTheLastAnswerStand(t *testing.T) {
	t.Parallel()
	for _, status := range []int{0, 429, 500, 503} {
		w := newWorld()
		w.Answered(w.Grant(t.Context(), nobody, reg, byTag))
		w.now = w.now.Add(48 * time.Hour)
		w.status["HEAD"] = status
		for _, caller := range []Caller{nobody, alice} {
			g := w.Grant(t.Context(), caller, reg, byTag)
			if err := w.Confirm(t.Context(), g, byTag); g.Class != Open || err != nil {
				t.Errorf("status %d: %v, %v", status, g.Class, err)
			}
		}
		// What was never known to be open is not.
		other := byTag
		other.Repository = "team/other"
		if err := w.Confirm(t.Context(), w.Grant(t.Context(), nobody, reg, other), other); err == nil {
			t.Errorf("status %d: cached content of an unknown repository is given to nobody in particular", status)
		}
	}
}

func TestADigestAloneOpensNothing(t *testing.T) {
	t.Parallel()
	w := newWorld()
	g := w.Grant(t.Context(), nobody, reg, byDigest)
	w.status["HEAD"] = 404
	if err := w.Holds(t.Context(), g, byDigest); err == nil {
		t.Error("a repository that does not hold the digest gives it out")
	}
	w.status["HEAD"] = 0
	if err := w.Holds(t.Context(), g, byDigest); err == nil {
		t.Error("a repository that cannot be asked gives a digest out that it was never shown to hold")
	}
	w.status["HEAD"] = 307
	if err := w.Holds(t.Context(), g, byDigest); err != nil {
		t.Errorf("the registry redirects to the blob: %v", err)
	}
	asked := len(w.asked)
	w.status["HEAD"] = 0
	if err := w.Holds(t.Context(), g, byDigest); err != nil || len(w.asked) != asked {
		t.Errorf("a known link was asked for again: %v", err)
	}
}

func TestOwnContentLeavesNoTrace(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.status["HEAD"] = 401
	g := w.Grant(t.Context(), alice, reg, byDigest)
	w.Answered(g)
	w.Delivered(g, digest)
	if err := w.Confirm(t.Context(), w.Grant(t.Context(), nobody, reg, byDigest), byDigest); err == nil {
		t.Error("alice's pull made the repository open")
	}
	w.status["HEAD"] = 0
	if err := w.Holds(t.Context(), g, byDigest); err == nil {
		t.Error("alice's pull left a link")
	}
}

func TestConcurrentQuestionsAreOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.delay = time.Second
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if g := w.Grant(t.Context(), alice, reg, byTag); g.Class != Open {
					t.Errorf("class %v", g.Class)
				}
			})
		}
		wg.Wait()
		if len(w.asked) != 1 {
			t.Errorf("asked %d times for 50 callers at once", len(w.asked))
		}
	})
}
