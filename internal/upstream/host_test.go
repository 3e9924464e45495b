package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

func limited(l upstream.Limits) func(*upstream.Config) {
	return func(c *upstream.Config) { c.Limits = func(string) upstream.Limits { return l } }
}

func TestAHostIsAskedOnlySoMuchAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var now, peak atomic.Int32
	reg := w.https("reg.test", func(rw http.ResponseWriter, _ *http.Request) {
		for n := now.Add(1); ; {
			if p := peak.Load(); n <= p || peak.CompareAndSwap(p, n) {
				break
			}
		}
		_, _ = io.WriteString(rw, strings.Repeat("x", 100_000))
		_ = http.NewResponseController(rw).Flush()
		time.Sleep(5 * time.Millisecond) // the registry's own pace
		now.Add(-1)
	})
	c := w.client(limited(upstream.Limits{Concurrent: 3}))
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if status, body := get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/x"}); status != 200 || len(body) != 100_000 {
				t.Errorf("%d, %d bytes", status, len(body))
			}
		})
	}
	wg.Wait()
	if peak.Load() > 3 || peak.Load() < 2 {
		t.Errorf("%d requests at once, want 3", peak.Load())
	}
}

// With one slot for all, whatever ends a request must give it back, and nothing that a request needs may wait for it.
func TestSlotsComeBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newTokenRegistry(w, "reg.test", "reg.test")
	cdn := w.https("cdn.test", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNotFound) })
	location := "https://" + cdn + "/x"
	self := "/v2/there"
	cuts, _ := cut(1 << 20)
	odd := w.https("odd.test", func(rw http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/v2/cut":
			cuts(rw, req)
		case "/v2/cdn":
			redirect(http.StatusFound, &location)(rw, req)
		case "/v2/self":
			redirect(http.StatusFound, &self)(rw, req)
		case "/v2/loop":
			loop := "/v2/loop"
			redirect(http.StatusFound, &loop)(rw, req)
		case "/v2/bad":
			bad := "ftp://x"
			redirect(http.StatusFound, &bad)(rw, req)
		case "/v2/busy":
			rw.WriteHeader(http.StatusServiceUnavailable)
		default:
			_, _ = io.WriteString(rw, "bytes")
		}
	})
	c := w.client(limited(upstream.Limits{Concurrent: 1}), func(c *upstream.Config) { c.Entries = []auth.Entry{login(r.service)} })
	for range 3 {
		for _, path := range []string{"cut", "cdn", "self", "loop", "bad", "busy", "fine"} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				resp, err := c.Do(t.Context(), upstream.Request{Method: method, Registry: registry(t, odd), Path: "/v2/" + path})
				if err == nil {
					resp.Body.Close()
				}
			}
		}
		for _, as := range []auth.Identity{auth.Central, auth.Anonymous, auth.Own(secret.New("Bearer stale"))} {
			resp, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, r.registry), Path: "/v2/private/blobs/x", Scope: auth.PullScope("private"), As: as})
			if err != nil {
				t.Errorf("with a token service on the registry's own host: %v", err)
				continue
			}
			resp.Body.Close()
		}
	}
	if _, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: "nowhere.example", Path: "/v2/x"}); err == nil {
		t.Error("no error from nowhere")
	}
}

func TestWhoWaitsMayLeave(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := w.https("reg.test", func(rw http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	})
	c := w.client(limited(upstream.Limits{Concurrent: 1}))
	holds, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"})
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { // reading, it holds its slot
		_, err := io.ReadAll(holds.Body)
		read <- err
	}()
	gone := errors.New("client gone")
	ctx, leave := context.WithCancelCause(t.Context())
	time.AfterFunc(short, func() { leave(gone) })
	_, err = c.Do(ctx, upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"})
	if !errors.Is(err, gone) {
		t.Errorf("%v, want the cause", err)
	}
	if n := len(w.requests(reg)); n != 1 {
		t.Errorf("%d requests, want the one that holds the slot", n)
	}
	holds.Body.Close()
	<-read
}

// Clients that read slowly what passes through must not keep all others from a registry.
func TestASlowReaderLendsItsSlot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	size := 8 << 20
	reg := w.https("reg.test", func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(make([]byte, size)) })
	c := w.client(limited(upstream.Limits{Concurrent: 1}))
	slow, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/slow"})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	if _, err := io.CopyN(io.Discard, slow.Body, 1000); err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/x"}); status != 200 || len(body) != size {
		t.Errorf("another got %d, %d bytes", status, len(body))
	}
	if n, err := io.Copy(io.Discard, slow.Body); err != nil || n != int64(size)-1000 {
		t.Errorf("the slow one then got %d bytes, %v", n, err)
	}
}

func TestRequestsPerSecond(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := w.https("reg.test", say("bytes"))
	c := w.client(limited(upstream.Limits{PerSecond: 10}))
	begin := time.Now()
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() { get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/x"}) })
	}
	wg.Wait()
	if took := time.Since(begin); took < 900*time.Millisecond { // twenty at once, ten in the second that follows
		t.Errorf("30 requests within %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := c.Do(ctx, upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"}); err == nil {
		t.Error("a request without a turn was made")
	}
}

// A registry in trouble is not asked much more than its clients ask: retries come out of a budget.
func TestRetriesHaveABudget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var n atomic.Int32
	reg := w.https("reg.test", func(http.ResponseWriter, *http.Request) {
		n.Add(1)
		panic(http.ErrAbortHandler)
	})
	c := w.client()
	const demand = 200
	var wg sync.WaitGroup
	for range demand {
		wg.Go(func() {
			if _, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"}); err == nil {
				t.Error("no error")
			}
		})
	}
	wg.Wait()
	if most := demand + demand/10 + 6 + 2; int(n.Load()) > most {
		t.Errorf("%d requests upstream for %d, want at most %d", n.Load(), demand, most)
	}
}

func TestGatewaysThatFlap(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status     int
		retryAfter string
		method     string
		asked      int
	}{
		{502, "", http.MethodGet, 2}, {504, "", http.MethodHead, 2}, {502, "10", http.MethodGet, 1}, {503, "", http.MethodGet, 1},
		{500, "", http.MethodGet, 1}, {429, "", http.MethodGet, 1}, {502, "", http.MethodDelete, 1},
	} {
		w := newWorld(t)
		var n atomic.Int32
		reg := w.https("reg.test", func(rw http.ResponseWriter, _ *http.Request) {
			if n.Add(1) == 1 {
				if tt.retryAfter != "" {
					rw.Header().Set("Retry-After", tt.retryAfter)
				}
				rw.WriteHeader(tt.status)
			}
		})
		status, _ := get(t, w.client(), upstream.Request{Method: tt.method, Registry: registry(t, reg), Path: "/v2/x"})
		if want := map[int]int{1: tt.status, 2: 200}[tt.asked]; int(n.Load()) != tt.asked || status != want {
			t.Errorf("%s answered %d (Retry-After %q): %d after %d requests, want %d after %d", tt.method, tt.status, tt.retryAfter, status, n.Load(), want, tt.asked)
		}
	}
}

// A signed address that has expired is resolved anew, once; one that is refused for another reason is refused again.
func TestExpiredAddresses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status    int
		expires   bool // the first address; else all are refused
		want      int
		resolved  int
		elsewhere bool // on another host
	}{
		{403, true, 200, 2, true}, {400, true, 200, 2, true}, {403, true, 200, 2, false},
		{403, false, 403, 2, true}, {404, true, 404, 1, true}, {500, true, 500, 1, true},
	} {
		w := newWorld(t)
		var resolved atomic.Int32
		content := func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("n") == "1" || !tt.expires {
				rw.WriteHeader(tt.status)
				_, _ = io.WriteString(rw, "<Error><Code>ExpiredToken</Code></Error>")
				return
			}
			_, _ = io.WriteString(rw, "blob")
		}
		cdn := w.https("cdn.test", content)
		reg := w.https("reg.test", func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/signed" {
				content(rw, r)
				return
			}
			location := fmt.Sprintf("/signed?n=%d", resolved.Add(1))
			if tt.elsewhere {
				location = "https://" + cdn + location
			}
			redirect(http.StatusTemporaryRedirect, &location)(rw, r)
		})
		status, body := get(t, w.client(), upstream.Request{Registry: registry(t, reg), Path: "/v2/x"})
		if status != tt.want || int(resolved.Load()) != tt.resolved || status == 200 && body != "blob" {
			t.Errorf("answered %d: %d %q after %d redirects, want %d after %d", tt.status, status, body, resolved.Load(), tt.want, tt.resolved)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, "-1": 0, "soon": 0, "99999999999999999999": 0, "Fri, 31 Dec 1999 23:59:59 GMT": 0,
	} {
		r := &upstream.Refusal{Header: http.Header{"Retry-After": {value}}}
		if got := r.RetryAfter(); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	r := &upstream.Refusal{Header: http.Header{"Retry-After": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}}}
	if got := r.RetryAfter(); got < 50*time.Minute || got > time.Hour {
		t.Errorf("in an hour: %v", got)
	}
}
