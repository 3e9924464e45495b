package access

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
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
	meta    *metadata.Metadata
	db      *mapDB
	hasher  *secret.Hasher
	mu      sync.Mutex
	status  map[string]int // by method; 0 means unreachable
	asked   []string
	now     time.Time
	clock   func() time.Time // now, unless a test has another
	central bool
	delay   time.Duration
	hang    bool
	gone    map[string]bool // paths that are not there
	panics  bool
}

func newWorld() *world {
	w := &world{status: map[string]int{"HEAD": 200, "GET": 200}, now: time.Unix(1e9, 0), db: &mapDB{}, hasher: secret.NewHasher()}
	w.clock = func() time.Time { return w.now }
	w.meta = metadata.New(w.db)
	w.Access = New(Config{
		Registries: w, Metadata: w.meta,
		HasCentral: func(oci.Registry, string) bool { return w.central },
		Now:        func() time.Time { return w.clock() },
		Hasher:     w.hasher,
	})
	return w
}

// free records that a registry delivered the digest from a repository that was open, and whether it still is.
func (w *world) free(reg oci.Registry, open bool) {
	w.meta.PutProof(reg, "library/app", digest, true)
	w.meta.PutOpen(reg, "library/app", metadata.OpenAnswer{Open: open, At: w.now.Add(-48 * time.Hour)})
}

// set changes what a HEAD gets while questions may be on their way.
func (w *world) set(hang bool, head int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hang, w.status["HEAD"] = hang, head
}

func (w *world) Do(ctx context.Context, req upstream.Request) (*http.Response, error) {
	time.Sleep(w.delay)
	if w.panics {
		panic("as the test wants it")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hang {
		w.asked = append(w.asked, req.Method+" "+req.Path+" in vain")
		w.mu.Unlock()
		<-ctx.Done()
		w.mu.Lock()
		return nil, context.Cause(ctx)
	}
	who := "nobody"
	switch {
	case req.As.IsCentral():
		who = "central"
	case req.As.IsOwn():
		who = "own"
	}
	w.asked = append(w.asked, req.Method+" "+req.Path+" as "+who)
	status := w.status[req.Method]
	if w.gone[req.Path] {
		status = 404
	}
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

func (db *mapDB) Page(string, string, int) ([]string, [][]byte) { return nil, nil }

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
		{"a login for what everybody may see is open", false, 200, alice, Open, auth.Own(alice.Authorization), 1},
		{"a redirect to storage is open", false, 307, alice, Open, auth.Own(alice.Authorization), 1},
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
		w.Answered(w.Grant(t.Context(), nobody, reg, byTag), byTag)
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

// The grant for a digest has two parts: the repository says that it holds it, and its registry has shown that it is not
// merely saying so, unless the digest is everybody's anyway.
func TestADigestAloneOpensNothing(t *testing.T) {
	t.Parallel()
	const elsewhere = oci.Registry("elsewhere.test")
	unproven := ErrUnproven
	for _, tc := range []struct {
		name    string
		link    metadata.Link
		before  func(w *world)
		head    int // the registry's answer; 0 means unreachable
		want    error
		refused int // with that status, where want is nil
		asked   int
	}{
		{name: "nothing is known and the registry denies it", head: 404, refused: 404, asked: 1},
		{name: "nothing is known and the registry wants a login", head: 401, refused: 401, asked: 1},
		{name: "nothing is known and the registry is down", head: 0, refused: 1, asked: 1},
		{name: "a registry that says yes to everything", head: 200, want: unproven, asked: 1},
		{name: "a redirect to storage is but a claim", head: 307, want: unproven, asked: 1},
		{name: "a claim of before, the registry down", link: metadata.Claimed, head: 0, want: unproven},
		{name: "proven, the registry down", link: metadata.Proven, head: 0},
		{name: "claimed now, delivered from another repository of the registry", head: 200, asked: 1,
			before: func(w *world) { w.meta.PutProof(reg, "team/other", digest, false) }},
		{name: "claimed before, delivered from another repository of the registry", link: metadata.Claimed, head: 0,
			before: func(w *world) { w.meta.PutProof(reg, "team/other", digest, false) }},
		{name: "denied here, delivered from another repository of the registry", head: 404, refused: 404, asked: 1,
			before: func(w *world) { w.meta.PutProof(reg, "team/other", digest, true) }},
		{name: "claimed, delivered by another registry to some", head: 200, want: unproven, asked: 1,
			before: func(w *world) { w.meta.PutProof(elsewhere, "team/app", digest, false) }},
		{name: "claimed, delivered by another registry to everybody", head: 200, asked: 1,
			before: func(w *world) { w.free(elsewhere, true) }},
		{name: "claimed, delivered from a repository that is open no more", head: 200, want: unproven, asked: 1,
			before: func(w *world) { w.free(elsewhere, false) }},
		{name: "denied here, though everybody may have it elsewhere", head: 404, refused: 404, asked: 1,
			before: func(w *world) { w.free(elsewhere, true) }},
	} {
		w := newWorld()
		g := w.Grant(t.Context(), nobody, reg, byDigest)
		switch tc.link {
		case metadata.Claimed:
			w.meta.PutClaim(reg, byDigest.Repository, digest)
		case metadata.Proven:
			w.meta.PutProof(reg, byDigest.Repository, digest, false)
		}
		if tc.before != nil {
			tc.before(w)
		}
		w.status["HEAD"] = tc.head
		err := w.Holds(t.Context(), g, byDigest)
		refusal, refused := errors.AsType[*upstream.Refusal](err)
		switch {
		case tc.refused > 1:
			if !refused || refusal.Status != tc.refused {
				t.Errorf("%s: %v, want the registry's %d", tc.name, err, tc.refused)
			}
		case tc.refused == 1:
			if err == nil || errors.Is(err, ErrUnproven) {
				t.Errorf("%s: %v, want that it is unreachable", tc.name, err)
			}
		case !errors.Is(err, tc.want):
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if len(w.asked) != tc.asked {
			t.Errorf("%s: asked %q, want %d questions", tc.name, w.asked, tc.asked)
		}
	}
}

// What is being delivered to all alike may be joined by whoever's registry says that it is the repository's.
func TestAClaimIsEnoughForWhatIsInFlight(t *testing.T) {
	t.Parallel()
	w := newWorld()
	g := w.Grant(t.Context(), nobody, reg, byDigest)
	w.status["HEAD"] = 404
	if err := w.Claims(t.Context(), g, byDigest); err == nil {
		t.Error("a repository that does not hold the digest claims it")
	}
	w.status["HEAD"] = 200
	for range 2 {
		if err := w.Claims(t.Context(), g, byDigest); err != nil {
			t.Errorf("the registry says that it holds it: %v", err)
		}
	}
	if len(w.asked) != 2 {
		t.Errorf("asked %q, want one question a claim", w.asked)
	}
	// CentOS's registry answers 403 to a HEAD and serves the GET.
	w = newWorld()
	w.status["HEAD"] = 403
	if err := w.Claims(t.Context(), g, byDigest); err != nil || len(w.asked) != 2 {
		t.Errorf("a registry with an odd HEAD: %v after %q", err, w.asked)
	}
}

// What a registry says to alice links the digest to the repository, and makes neither open.
func TestOwnContentMakesNothingOpen(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.status["HEAD"] = 401
	g := w.Grant(t.Context(), alice, reg, byDigest)
	if err := w.Claims(t.Context(), g, byDigest); err == nil {
		t.Error("a 401 is a claim")
	}
	w.Answered(g, byDigest)
	w.Delivered(g, digest)
	if err := w.Confirm(t.Context(), w.Grant(t.Context(), nobody, reg, byDigest), byDigest); err == nil {
		t.Error("alice's pull made the repository open")
	}
	if w.meta.Link(reg, byDigest.Repository, digest) != metadata.Proven {
		t.Error("alice's pull proved nothing")
	}
	if _, _, free := w.meta.Free(digest); free {
		t.Error("alice's pull made the digest everybody's")
	}
}

// The grace is that of the registry's last acceptance: a hit does not extend it, and a clock that was set back ends it.
func TestHowLongALoginCounts(t *testing.T) {
	t.Parallel()
	token := func(exp time.Time) Caller {
		payload := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, exp.Unix()))
		return Caller{Authorization: secret.New("Bearer e30." + payload + ".c2ln")}
	}
	now := time.Unix(1e9, 0)
	basic := Caller{Authorization: secret.New("Basic YWxpY2U6c2VjcmV0")}
	for _, tc := range []struct {
		name      string
		caller    Caller
		after     time.Duration
		down      bool
		restart   bool
		served    bool
		questions int
	}{
		{"within the grace", basic, 4*time.Minute + 50*time.Second, false, false, true, 0},
		{"within the grace, after a restart", basic, 4 * time.Minute, false, true, true, 0},
		{"after the grace", basic, 5 * time.Minute, false, false, false, 1},
		{"after the grace and a restart", basic, 5 * time.Minute, false, true, false, 1},
		{"after the grace, in an outage", basic, 59 * time.Minute, true, true, true, 1},
		{"after the longer grace, in an outage", basic, 61 * time.Minute, true, false, false, 1},
		{"the clock was set back", basic, -time.Minute, false, false, false, 1},
		{"a token within its life", token(now.Add(2 * time.Minute)), time.Minute, false, false, true, 0},
		{"a token after its life", token(now.Add(2 * time.Minute)), 2 * time.Minute, false, true, false, 1},
		{"a long token within the grace", token(now.Add(time.Hour)), 4 * time.Minute, false, false, true, 0},
		{"a long token after the grace", token(now.Add(time.Hour)), 6 * time.Minute, false, false, false, 1},
		{"a long token after the grace, in an outage", token(now.Add(time.Hour)), 50 * time.Minute, true, false, true, 1},
		{"a token that does not say, in an outage", alice, 6 * time.Minute, true, false, false, 1},
		{"a token that ends in a million years, in an outage", token(time.Unix(1<<50, 0)), 6 * time.Minute, true, false, false, 1},
	} {
		w := newWorld()
		g := w.Grant(t.Context(), tc.caller, reg, byDigest)
		g.Class = Own
		if err := w.Confirm(t.Context(), g, byDigest); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		w.now = w.now.Add(tc.after)
		w.status["HEAD"] = 401
		if tc.down {
			w.status["HEAD"] = 0
		}
		w.asked = nil
		if tc.restart {
			w.Access = New(Config{Registries: w, Metadata: metadata.New(w.db), HasCentral: func(oci.Registry, string) bool { return false }, Now: func() time.Time { return w.now }, Hasher: w.hasher})
			g.login = w.loginOf(tc.caller)
		}
		err := w.Confirm(t.Context(), g, byDigest)
		if (err == nil) != tc.served || len(w.asked) != tc.questions {
			t.Errorf("%s: %v after %q, want served %t after %d questions", tc.name, err, w.asked, tc.served, tc.questions)
		}
	}
}

// A registry that takes a login back is believed at once, wherever it says so.
func TestARefusalEndsTheGrace(t *testing.T) {
	t.Parallel()
	w := newWorld()
	g := w.Grant(t.Context(), alice, reg, byDigest)
	g.Class = Own
	if err := w.Confirm(t.Context(), g, byDigest); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(6 * time.Minute)
	w.status["HEAD"], w.status["GET"] = 403, 403
	if err := w.Confirm(t.Context(), g, byDigest); err == nil {
		t.Error("refused, and served")
	}
	w.status["HEAD"] = 0
	if err := w.Confirm(t.Context(), g, byDigest); err == nil {
		t.Error("refused, and served in the outage that followed")
	}
}

// That there are credentials does not say that they open a repository: what was fetched with a client's own stays its
// own.
func TestCentralContentIsWhatTheOperatorsCredentialsOpen(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.central = true
	g := w.Grant(t.Context(), nobody, reg, byDigest)
	if g.Class != Central {
		t.Fatalf("class %v", g.Class)
	}
	w.status["HEAD"], w.status["GET"] = 403, 403
	if err := w.Confirm(t.Context(), g, byDigest); err == nil {
		t.Error("given out though the operator's credentials do not open it")
	}
	w.status["HEAD"] = 200
	for range 3 {
		if err := w.Confirm(t.Context(), g, byDigest); err != nil {
			t.Errorf("opened by them: %v", err)
		}
	}
	w.now = w.now.Add(48 * time.Hour)
	w.status["HEAD"] = 0
	if err := w.Confirm(t.Context(), g, byDigest); err != nil {
		t.Errorf("opened by them when the registry was last seen: %v", err)
	}
}

// While the operator's credentials are refused, what is open is to be had; the rest names the setting.
func TestRefusedCredentialsLeaveWhatIsOpen(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.central = true
	w.cfg.Refused = func(context.Context, oci.Registry, string) bool { return true }
	g := w.Grant(t.Context(), nobody, reg, byTag)
	if g.Class != Open || g.As.IsCentral() {
		t.Fatalf("asked as %v", g.Class)
	}
	if err := w.Confirm(t.Context(), g, byTag); err != nil {
		t.Errorf("open: %v", err)
	}
	other := byTag
	other.Repository = "team/private"
	w.status["HEAD"] = 401
	var wire *oci.Error
	if err := w.Confirm(t.Context(), w.Grant(t.Context(), nobody, reg, other), other); !errors.As(err, &wire) || wire.Code != oci.CodeDenied || !strings.Contains(wire.Message, "AUTH_REGISTRIES") {
		t.Errorf("private: %v, want DENIED naming the setting", err)
	}
}

// With ALLOW_OWN_AUTH the caller's login goes first and the operator's second, where the registry refuses it.
func TestOwnFirst(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.central = true
	w.cfg.OwnFirst = func() bool { return true }
	w.status["HEAD"] = 401
	g := w.Grant(t.Context(), alice, reg, byTag)
	if !g.As.IsOwn() || g.Class != Own {
		t.Errorf("%v", g.Class)
	}
	if again, ok := w.Otherwise(t.Context(), g, &upstream.Refusal{Status: 401}); !ok || again.Class != Central {
		t.Errorf("after a refusal: %v, %t", again.Class, ok)
	}
	for _, err := range []error{nil, &upstream.Refusal{Status: 429}, &upstream.UnreachableError{}} {
		if _, ok := w.Otherwise(t.Context(), g, err); ok {
			t.Errorf("%v has the operator's credentials tried", err)
		}
	}
	if g := w.Grant(t.Context(), nobody, reg, byTag); g.Class != Central {
		t.Errorf("without a login: %v", g.Class)
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

func TestOneThatLeavesDoesNotEndTheQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.delay = 2 * time.Second
		leaves, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if g := w.Grant(leaves, alice, reg, byTag); g.Class != Own {
				t.Errorf("who left before the answer has class %v", g.Class)
			}
		})
		synctest.Wait() // the first one asks
		wg.Go(func() {
			if g := w.Grant(t.Context(), alice, reg, byTag); g.Class != Open {
				t.Errorf("who stayed has class %v", g.Class)
			}
		})
		wg.Wait()
		if len(w.asked) != 1 {
			t.Errorf("asked %q", w.asked)
		}
	})
}

// A panic in a shared question would end the process, since nobody's request runs it.
func TestAPanicIsAnErrorForThoseWhoAsked(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.panics = true
	if err := w.Claims(t.Context(), w.Grant(t.Context(), nobody, reg, byDigest), byDigest); err == nil {
		t.Error("no error")
	}
}

// Bitnami deleted images that everybody had pulled: what is cached of an open repository stays open though the digest is
// gone there, as long as something else of it can still be seen.
func TestWhatIsDeletedFromAnOpenRepositoryStaysOpen(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.Answered(w.Grant(t.Context(), nobody, reg, byTag), byTag)
	w.now = w.now.Add(2 * time.Hour)
	w.gone = map[string]bool{byDigest.String(): true}
	if err := w.Confirm(t.Context(), w.Grant(t.Context(), nobody, reg, byDigest), byDigest); err != nil {
		t.Errorf("a digest that is gone, a tag that is there: %v", err)
	}
	w.now = w.now.Add(2 * time.Hour)
	w.gone[byTag.String()] = true
	if err := w.Confirm(t.Context(), w.Grant(t.Context(), nobody, reg, byDigest), byDigest); err == nil {
		t.Error("a repository that shows nothing any more, or is hidden, is given out")
	}
}

// A tag that does not exist says little about its repository.
func TestAMissingTagIsNotBelievedForLong(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.gone = map[string]bool{byTag.String(): true}
	if g := w.Grant(t.Context(), alice, reg, byTag); g.Class != Own {
		t.Errorf("nothing was shown: %v", g.Class)
	}
	if g := w.Grant(t.Context(), alice, reg, byDigest); g.Class != Own || len(w.asked) != 1 {
		t.Errorf("right after it: %v after %q", g.Class, w.asked)
	}
	w.now = w.now.Add(6 * time.Minute)
	if g := w.Grant(t.Context(), alice, reg, byDigest); g.Class != Open {
		t.Errorf("some minutes after it: %v", g.Class)
	}
}

func TestARegistryThatHangsIsNotWaitedForWhereItsLastAnswerWillDo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.clock = time.Now
		w.Answered(w.Grant(t.Context(), nobody, reg, byTag), byTag)
		time.Sleep(2 * time.Hour)
		w.set(true, 200)
		for i, most := range []time.Duration{3 * time.Second, 0, 0} {
			start := time.Now()
			g := w.Grant(t.Context(), alice, reg, byTag)
			if took := time.Since(start); g.Class != Open || took > most {
				t.Errorf("request %d: %v after %v, want open after %v at most", i, g.Class, took, most)
			}
		}
		w.mu.Lock()
		if len(w.asked) != 1 {
			t.Errorf("asked %q while it hangs", w.asked)
		}
		w.mu.Unlock()
		time.Sleep(time.Minute)
		w.set(false, 401)
		if g := w.Grant(t.Context(), alice, reg, byTag); g.Class != Own {
			t.Errorf("after it came back as private: %v", g.Class)
		}
	})
}

func TestRestsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld()
	if w.Rest(reg, time.Minute); !w.Resting(reg) {
		t.Error("not at rest")
	}
	w.now = w.now.Add(-10 * 365 * 24 * time.Hour) // the clock was wrong, and is set right
	if w.Resting(reg) {
		t.Error("at rest for years")
	}
}

func TestWhatAClientIsTold(t *testing.T) {
	t.Parallel()
	answer := func(status int) *http.Response {
		return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}"))}
	}
	var refusal *upstream.Refusal
	if err := (Grant{}).Refusal(answer(401)); !errors.As(err, &refusal) || refusal.Status != 401 {
		t.Errorf("a challenge to nobody in particular: %v, want it passed on", err)
	}
	var wire *oci.Error
	if err := (Grant{Class: Central}).Refusal(answer(401)); !errors.As(err, &wire) || wire.Status() != 403 || !strings.Contains(wire.Message, "AUTH_REGISTRIES") {
		t.Errorf("the operator's credentials refused: %v, want 403 naming the setting", err)
	}
	var unreachable *upstream.UnreachableError
	if err := (Grant{}).Refusal(answer(204)); !errors.As(err, &unreachable) {
		t.Errorf("a 204 to a pull: %v, want that the registry is of no use", err)
	}
}
