package upstream_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

var redirectStatuses = []int{301, 302, 303, 307, 308}

// Every shape of redirect with every status, by GET and HEAD, with the operator's login and with a client's own: secrets
// stay at the origin, what is wanted travels.
func TestRedirectsLeakNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var self, cdn, port, sub, plain string
	bounce := func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/back") {
			http.Redirect(rw, r, "https://"+self+"/v2/returned", http.StatusFound)
			return
		}
		_, _ = io.WriteString(rw, "bytes")
	}
	self = w.https("reg.test", func(rw http.ResponseWriter, r *http.Request) {
		status, shape, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
		if !ok {
			_, _ = io.WriteString(rw, "bytes")
			return
		}
		code, _ := strconv.Atoi(status)
		rw.Header().Set("Location", map[string]string{
			"relative": "/v2/there", "same": "https://" + self + "/v2/there", "letters": "https://REG.TEST:" + self[len("reg.test:"):] + "/v2/there",
			"host": "https://" + cdn + "/there?X-Signature=" + canary, "scheme-relative": "//" + cdn + "/there", "port": "https://" + port + "/there",
			"subdomain": "https://" + sub + "/there", "userinfo": "https://user:" + canary + "@" + cdn + "/there", "origin-in-userinfo": "https://" + self + "@" + cdn + "/there",
			"returning": "https://" + cdn + "/back", "dot": "https://reg.test.:" + self[len("reg.test:"):] + "/v2/there", "plain": "http://" + plain + "/there",
		}[shape])
		rw.WriteHeader(code)
	})
	cdn, port, sub, plain = w.https("cdn.test", bounce), w.https("reg.test", bounce), w.https("sub.reg.test", bounce), w.http("plain.test", bounce)
	own := "Bearer " + canary
	clients := map[string]struct {
		as     auth.Identity
		client *upstream.Client
	}{
		"own":     {auth.Own(secret.New(own)), w.client()},
		"central": {auth.Central, w.client(func(c *upstream.Config) { c.Entries = []auth.Entry{login(self)} })},
	}
	home := map[string]bool{"relative": true, "same": true, "letters": true, "dot": true}
	matrix := 0
	for who, as := range clients {
		for _, shape := range []string{"relative", "same", "letters", "dot", "host", "scheme-relative", "port", "subdomain", "userinfo", "origin-in-userinfo", "returning", "plain"} {
			for _, status := range redirectStatuses {
				for _, method := range []string{http.MethodGet, http.MethodHead} {
					matrix++
					name := fmt.Sprintf("%s %d %s as %s", method, status, shape, who)
					before := len(w.seen)
					resp, err := as.client.Do(t.Context(), upstream.Request{
						Method: method, Registry: registry(t, self), Path: fmt.Sprintf("/v2/%d/%s", status, shape), As: as.as,
						Header: http.Header{"Cookie": {canary}, "X-Api-Key": {canary}, "Range": {"bytes=1-2"}, "Accept": {"application/json"}, "Proxy-Authorization": {canary}, "Authorization": {canary}},
					})
					if shape == "plain" {
						if _, ok := errors.AsType[*upstream.UnreachableError](err); !ok {
							t.Errorf("%s: err = %v, want an UnreachableError: https does not lead to http", name, err)
						}
					} else if err != nil {
						t.Errorf("%s: %v", name, err)
						continue
					} else {
						resp.Body.Close()
						if resp.StatusCode != 200 || resp.Request.Method != method {
							t.Errorf("%s: %s answered with %d", name, resp.Request.Method, resp.StatusCode)
						}
					}
					left := false
					for _, s := range w.seen[before:] {
						left = left || s.site != "https://"+self
						if s.site == "http://"+plain {
							t.Errorf("%s: reached plain HTTP", name)
						}
						if s.method != method || s.header.Get("Range") != "bytes=1-2" || s.header.Get("Accept") != "application/json" || s.header.Get("Accept-Encoding") != "identity" {
							t.Errorf("%s: %s saw %s with %v, want method, Range and Accept kept", name, s.site, s.method, s.header)
						}
						secrets := fmt.Sprint(s.header["Authorization"], s.header["Cookie"], s.header["X-Api-Key"])
						if left && strings.Contains(fmt.Sprint(s.header), canary) {
							t.Errorf("%s: %s%s saw %v", name, s.site, s.uri, s.header)
						}
						if s.header.Get("Proxy-Authorization") != "" || strings.Contains(fmt.Sprint(s.header["Authorization"]), "["+canary) {
							t.Errorf("%s: %s saw the client's hop-by-hop credentials %v", name, s.site, s.header)
						}
						if !left && who == "own" && secrets != fmt.Sprint([]string{own}, []string{canary}, []string{canary}) {
							t.Errorf("%s: the registry saw %s, want the client's credentials", name, secrets)
						}
					}
					if left == home[shape] && shape != "plain" {
						t.Errorf("%s: left its origin = %v, want %v", name, left, !home[shape])
					}
				}
			}
		}
	}
	if matrix < 40 {
		t.Errorf("%d cases, want at least 40", matrix)
	}
	if strings.Contains(w.logs.String(), canary) {
		t.Errorf("the log shows a secret:\n%s", w.logs.String())
	}
}

// A store of blobs that refuses an Authorization header, as S3 does, behind a registry that wants one.
func TestSignedBlobBehindALogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const signed = "/bucket/sha256%3Aabc/a+b%2Bc%2f?X-Amz-Signature=ab%2Fcd+ef&X-Amz-Credential=x%2Fy&empty="
	cdn := w.https("s3.test", func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			http.Error(rw, "Only one auth mechanism allowed", http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(rw, "blob")
	})
	location := "https://" + cdn + signed
	reg := w.https("reg.test", func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			rw.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		redirect(http.StatusTemporaryRedirect, &location)(rw, r)
	})
	c := w.client(func(c *upstream.Config) { c.Entries = []auth.Entry{login(reg)} })
	if status, body := get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/a/blobs/sha256:abc", As: auth.Central}); status != 200 || body != "blob" {
		t.Errorf("%d %q, want the blob", status, body)
	}
	if got := w.requests(cdn)[0].uri; got != signed {
		t.Errorf("the store was asked for %s, want %s, byte for byte", got, signed)
	}
}

func TestRedirectsHaveALimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := w.https("reg.test", func(rw http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/v2/"))
		if n == 0 {
			_, _ = io.WriteString(rw, "arrived")
			return
		}
		rw.Header().Set("Location", strconv.Itoa(n-1)) // relative to the path
		rw.WriteHeader(redirectStatuses[n%len(redirectStatuses)])
	})
	c := w.client()
	if status, body := get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/10"}); status != 200 || body != "arrived" {
		t.Errorf("ten hops: %d %q, want to arrive", status, body)
	}
	_, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/11"})
	if _, ok := errors.AsType[*upstream.UnreachableError](err); !ok || !strings.Contains(err.Error(), "redirects too often") {
		t.Errorf("eleven hops: %v, want an UnreachableError", err)
	}
}

func TestBadRedirects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var location string
	reg := w.https("reg.test", redirect(http.StatusFound, &location))
	c := w.client()
	for _, location = range []string{
		"ftp://reg.test/x", "file:///etc/passwd", "javascript:alert(1)", "https:opaque", "https://", "https://:443/x", "https://exa mple/x", "https://[::1/x",
		"https://127.1/x?sig=" + canary, "https://169.254.169.254/latest/meta-data?sig=" + canary, "https://[fd00:ec2::254]/x", "https://[::ffff:169.254.169.254]/x", "https://0.0.0.0/x",
		"https://nowhere.example/x?sig=" + canary, "https://%zz/" + canary, "http://cdn.test/x?sig=" + canary, "https://cdn.test:1/x?sig=" + canary, "https://cdn.test:99999/" + canary,
		"https://cdn.test/" + strings.Repeat("x", 70<<10),
	} {
		_, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"})
		if _, ok := errors.AsType[*upstream.UnreachableError](err); !ok {
			t.Errorf("%.60q: err = %v, want an UnreachableError", location, err)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%.60q: the error quotes it: %v", location, err)
		}
	}
	if strings.Contains(w.logs.String(), canary) {
		t.Error("the log quotes a Location")
	}
}

func TestStatusesThatAreNoRedirects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	location, status := "/elsewhere", 0
	reg := w.https("reg.test", func(rw http.ResponseWriter, r *http.Request) { redirect(status, &location)(rw, r) })
	c := w.client()
	for _, status = range []int{200, 201, 300, 304, 305, 306, 404} {
		if got, _ := get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/x"}); got != status {
			t.Errorf("status %d became %d", status, got)
		}
	}
	location, status = "", 302
	if got, _ := get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/x"}); got != 302 {
		t.Errorf("302 without a Location became %d", got)
	}
	location, status = "/elsewhere", 307
	if got, _ := get(t, c, upstream.Request{Registry: registry(t, reg), Path: "/v2/x", NoFollow: true}); got != 307 {
		t.Errorf("307 not to be followed became %d", got)
	}
	if got, _ := get(t, c, upstream.Request{Method: "PUT", Registry: registry(t, reg), Path: "/v2/x", Body: strings.NewReader("x"), ContentLength: 1}); got != 307 {
		t.Errorf("307 to a PUT became %d", got)
	}
	for _, s := range w.requests(reg) {
		if s.uri != "/v2/x" {
			t.Errorf("%s %s was asked for", s.method, s.uri)
		}
	}
}

func TestPlainRegistryMayLeadAnywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cdn := w.https("cdn.test", say("blob"))
	location := "https://" + cdn + "/x"
	authority := w.http("reg.test", redirect(http.StatusFound, &location))
	reg, err := oci.ParsePlainRegistry(authority)
	if err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, w.client(), upstream.Request{Registry: reg, Path: "/v2/x"}); status != 200 || body != "blob" {
		t.Errorf("%d %q, want the blob", status, body)
	}
}

// A registry on loopback that the operator named is asked; what it redirects to on loopback is not.
func TestRedirectToLoopbackIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	inside := w.https("inside.test", say("internal"))
	location := ""
	reg := w.https("reg.test", redirect(http.StatusFound, &location))
	named := func(host string) bool { return host == "reg.test" }
	for _, location = range []string{"https://" + inside + "/x", "https://127.0.0.1" + inside[len("inside.test"):] + "/x", "https://localhost.test" + inside[len("inside.test"):] + "/x"} {
		for _, allowed := range []bool{false, true} {
			c := w.client(func(c *upstream.Config) {
				d := dial.Config{Resolver: w, Named: named}
				if allowed {
					d.AllowedNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
				}
				c.Dialer = dial.New(d)
			})
			_, err := c.Do(t.Context(), upstream.Request{Method: http.MethodGet, Registry: registry(t, reg), Path: "/v2/x"})
			if refused, ok := errors.AsType[*dial.RefusedError](err); ok == allowed || ok && !strings.Contains(err.Error(), refused.Setting) {
				t.Errorf("%s, allowed %v: %v", location, allowed, err)
			}
		}
	}
	if n := len(w.requests(inside)); n != 1 {
		t.Errorf("%d requests inside, want the 1 that ALLOWED_NETWORKS lets through to the right name", n)
	}
}
