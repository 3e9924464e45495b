package app_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// wantError fails the test unless the answer is an error document of the distribution specification, with that status
// and code, whose message has all the words.
func (a answer) wantError(t testing.TB, what string, status int, code string, words ...string) {
	t.Helper()
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &doc); a.status != status || err != nil || len(doc.Errors) != 1 || doc.Errors[0].Code != code {
		t.Errorf("%s: %d %.300q, want %d with one error %s", what, a.status, a.body, status, code)
		return
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("%s: Content-Type %q, want application/json", what, got)
	}
	for _, word := range words {
		if !strings.Contains(doc.Errors[0].Message, word) {
			t.Errorf("%s: message %q, want %q named in it", what, doc.Errors[0].Message, word)
		}
	}
}

// raw sends a request's first line as it is written, inside an intercepted connection.
func (h *house) raw(authority, line string, header ...string) answer {
	h.t.Helper()
	w := h.secure(authority)
	text := line + " HTTP/1.1\r\nHost: " + authority + "\r\n"
	for _, field := range header {
		text += field + "\r\n"
	}
	w.write(h.t, text+"\r\n")
	method, _, _ := strings.Cut(line, " ")
	return w.response(h.t, method)
}

// layout is every path that there may be below the root of a house.
var layout = regexp.MustCompile(`^(\.|ca|ca/ca\.(crt|key)|cache|cache/(VERSION|lock|key|metadata\.db|staging(/[0-9a-z.-]+)?|blobs|blobs/sha(256|512)|blobs/sha256/[0-9a-f]{2}|blobs/sha256/[0-9a-f]{2}/[0-9a-f]{64}))$`)

// wantLayout fails the test if there is a file that has no place in the layout.
func (h *house) wantLayout() {
	h.t.Helper()
	err := filepath.WalkDir(h.root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return ignoreGone(err)
		}
		below, err := filepath.Rel(h.root, path)
		if err == nil && !layout.MatchString(below) {
			h.t.Errorf("%s is outside the layout", below)
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// street is a registry of ours among others that must never hear anything.
type street struct {
	*house
	reg   *registrytest.Registry
	names *names
	trap  *registrytest.Registry // not configured
}

func newStreet(t *testing.T, environ ...string) street {
	t.Helper()
	world := registrytest.NewWorld(t)
	s := street{
		reg:   registrytest.New(t, registrytest.Config{World: world}),
		trap:  registrytest.New(t, registrytest.Config{World: world, Name: "trap.test"}),
		names: &names{World: world},
	}
	s.house = plan{world: world, resolver: s.names, environ: append([]string{"REGISTRIES=" + s.reg.Host()}, environ...)}.start(t)
	return s
}

// wantSilence fails the test if anything was asked of a registry, or any name was looked up but our registry's.
func (s street) wantSilence() {
	s.t.Helper()
	for _, reg := range []*registrytest.Registry{s.reg, s.trap} {
		if asked := registrytest.Paths(reg.Requests()); len(asked) > 0 {
			s.t.Errorf("%s was asked %q", reg.Host(), asked)
		}
	}
	if others := slices.DeleteFunc(s.names.lookups(), func(name string) bool { return name == "registry.test" }); len(others) > 0 {
		s.t.Errorf("names were looked up: %q", others)
	}
	s.wantLayout()
}

func TestMalformedPathsGetNowhere(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, tt := range []struct {
		path   string
		status int
		code   string
		word   string
	}{
		{"/v2/UPPER/app/manifests/1", 400, "NAME_INVALID", "UPPER"},
		{"/v2/a..b/manifests/1", 400, "NAME_INVALID", "a..b"},
		{"/v2/-app/manifests/1", 400, "NAME_INVALID", "-app"},
		{"/v2/" + strings.Repeat("a", 256) + "/manifests/1", 400, "NAME_INVALID", "256 characters"},
		{"/v2/app/manifests/.tag", 400, "TAG_INVALID", ".tag"},
		{"/v2/app/manifests/" + strings.Repeat("t", 129), 400, "TAG_INVALID", "128"},
		{"/v2/app/blobs/sha256:abc", 400, "DIGEST_INVALID", "sha256:abc"},
		{"/v2/app/blobs/sha256:" + strings.Repeat("A", 64), 400, "DIGEST_INVALID", ""},
		{"/v2/app/blobs/sha256:" + strings.Repeat("a", 63) + "g", 400, "DIGEST_INVALID", ""},
		{"/v2/app/blobs/md5:" + strings.Repeat("a", 32), 400, "DIGEST_INVALID", "md5"},
		{"/v2/app/blobs/..", 400, "DIGEST_INVALID", ""},
		{"/v2/app/manifests/sha256:../../../etc/passwd", 404, "UNSUPPORTED", ""},
		{"/v2/../../etc/passwd/manifests/1", 400, "NAME_INVALID", ".."},
		{"/v2/app/../../etc/manifests/1", 400, "NAME_INVALID", ".."},
		{"/v2/..%2f..%2fetc/manifests/1", 400, "NAME_INVALID", "percent"},
		{"/v2/%2e%2e/%2e%2e/etc/manifests/1", 400, "NAME_INVALID", "percent"},
		{"/v2/..%252f..%252fetc/manifests/1", 400, "NAME_INVALID", "percent"},
		{"/v2/app%00/manifests/1", 400, "NAME_INVALID", "percent"},
		{"/v2/app%5c..%5c/manifests/1", 400, "NAME_INVALID", "percent"},
		{`/v2/app\..\etc/manifests/1`, 400, "NAME_INVALID", ""},
		{"/v2/%c0%ae%c0%ae/manifests/1", 400, "NAME_INVALID", "percent"},
		{"/v2//app/manifests/1", 400, "NAME_INVALID", ""},
		{"/v2/app//manifests/1", 400, "NAME_INVALID", ""},
		{"/v2/app/manifests/", 400, "TAG_INVALID", ""},
		{"/v2/app/blobs/" + digest + "/", 404, "UNSUPPORTED", ""},
		{"/v2/app/nonsense", 404, "UNSUPPORTED", ""},
		{"//v2/app/manifests/1", 404, "UNSUPPORTED", "/v2/"},
		{"/./v2/app/manifests/1", 404, "UNSUPPORTED", "/v2/"},
		{"/x/../v2/app/manifests/1", 404, "UNSUPPORTED", "/v2/"},
		{"/%76%32/app/manifests/1", 404, "UNSUPPORTED", "/v2/"},
		{"/v1/repositories/app/images", 404, "UNSUPPORTED", "v1"},
	} {
		s.raw(s.reg.Host(), "GET "+tt.path).wantError(t, tt.path, tt.status, tt.code, tt.word)
	}
	s.wantSilence()
}

func TestWhatIsTooLongIsRefused(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	s.raw(s.reg.Host(), "GET /v2/"+strings.Repeat("a/", 5000)+"/manifests/1").wantError(t, "a long target", 414, "UNSUPPORTED", "8192")
	var fields []string
	for i := range 200 {
		fields = append(fields, fmt.Sprintf("X-Field-%d: x", i))
	}
	s.raw(s.reg.Host(), "GET /v2/app/manifests/1", fields...).wantError(t, "many fields", 431, "UNSUPPORTED", "100")
	if a := s.raw(s.reg.Host(), "GET /v2/app/manifests/1", "X-Long: "+strings.Repeat("x", 100<<10)); a.status != 431 {
		t.Errorf("a long field: %d, want 431", a.status)
	}
	if a := s.local("GET", "/"+strings.Repeat("x", 10<<10)); a.status != 414 {
		t.Errorf("a long path of ourselves: %d, want 414", a.status)
	}
	s.wantSilence()
}

// A request inside a connection is for the host that the connection was opened for.
func TestOtherHostsInsideAConnectionAreMisdirected(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	for _, host := range []string{s.trap.Host(), "169.254.169.254", "registry.test", "127.0.0.1:1"} {
		w := s.secure(s.reg.Host())
		w.write(t, "GET /v2/app/manifests/1 HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		w.response(t, "GET").wantError(t, "Host: "+host, http.StatusMisdirectedRequest, "UNSUPPORTED", s.reg.Host())
	}
	s.wantSilence()
}

func TestUnknownNamesAndRegistries(t *testing.T) {
	t.Parallel()
	s := newStreet(t, "REGISTRIES=registry.test:1 nowhere.test:443 "+"*.gone.test")
	for _, host := range []string{"nowhere.test", "a.gone.test"} {
		s.ask("GET", "https://"+host+"/v2/app/manifests/1").wantError(t, host, 503, "UNAVAILABLE", host, "does not resolve")
	}
	_, a := s.connect("unheard-of.test:443")
	a.expect(t, 502, "unheard-of.test", "does not resolve")

	known := newStreet(t)
	known.reg.PushImage("app", "1", layers(1, 1, 1000)...)
	for _, path := range []string{"/v2/app/manifests/2", "/v2/other/manifests/1"} {
		known.ask("GET", known.reg.URL()+path).wantError(t, path, 404, "MANIFEST_UNKNOWN", "")
	}
	known.ask("GET", known.reg.URL()+"/v2/app/blobs/sha256:"+strings.Repeat("0", 64)).wantError(t, "an unknown blob", 404, "BLOB_UNKNOWN", "")
	known.wantLayout()
}

// What comes after CONNECT has to be TLS; a proxy that got past it would be talking to strangers in plain text.
func TestOtherBytesThanTLSAfterConnect(t *testing.T) {
	t.Parallel()
	s := newStreet(t)
	for _, bytes := range []string{
		"GET /v2/app/manifests/1 HTTP/1.1\r\nHost: " + s.reg.Host() + "\r\n\r\n", "SSH-2.0-OpenSSH_9.6\r\n",
		"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", strings.Repeat("\x00", 600), "\x16\x03\x01\xff\xff" + strings.Repeat("x", 600),
	} {
		w := s.tunnel(s.reg.Host())
		w.write(t, bytes)
		w.wantEnd(t)
	}
	s.log.await(t, func(l line) bool {
		return l.Kind == "tunnel" && l.Registry == s.reg.Host() && strings.Contains(l.Err, "something other than TLS after CONNECT")
	})
	s.wantSilence()
	s.local("GET", "/healthz").expect(t, 200)
}

// A registry is who its certificate says it is, or nobody.
func TestWrongUpstreamCertificates(t *testing.T) {
	t.Parallel()
	world, stranger := registrytest.NewWorld(t), registrytest.NewWorld(t)
	asked := make(chan string, 16)
	notice := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.Host + r.URL.Path })
	var registries []string
	want := map[string]string{}
	for name, tt := range map[string]struct {
		notAfter time.Time
		names    []string
		signer   *registrytest.World
		word     string
	}{
		"expired.test":  {time.Now().Add(-time.Hour), []string{"expired.test"}, world, "expired"},
		"misnamed.test": {time.Now().Add(time.Hour), []string{"other.test"}, world, "not for misnamed.test"},
		"unknown.test":  {time.Now().Add(time.Hour), []string{"unknown.test"}, stranger, "unknown authority"},
	} {
		at := world.Reserve(name)
		serveTLS(t, at, tt.signer.Certificate(tt.notAfter, tt.names...), notice)
		host := fmt.Sprintf("%s:%d", name, at.Port())
		registries, want[host] = append(registries, host), tt.word
	}
	h := start(t, world, "REGISTRIES="+strings.Join(registries, " "))
	for host, word := range want {
		h.ask("GET", "https://"+host+"/v2/app/manifests/1").wantError(t, host, 503, "UNAVAILABLE", host, "certificate", word)
	}
	if len(asked) > 0 {
		t.Errorf("a registry with a wrong certificate was asked %s", <-asked)
	}
	h.wantLayout()
}

// Loopback, metadata services and we ourselves are no destinations, in whatever spelling and whatever the name was that led
// there.
func TestForbiddenDestinations(t *testing.T) {
	t.Parallel()
	world, echoes := registrytest.NewWorld(t), echo(t)
	leads := map[string]string{
		"loopback.test": "127.0.0.1", "metadata.test": "169.254.169.254", "zero.test": "0.0.0.0", "mapped.test": "::ffff:127.0.0.1",
		"multicast.test": "224.0.0.1", "link.test": "fe80::1",
	}
	resolver := &names{World: world, further: func(_, host string) []netip.Addr {
		if address, ok := leads[host]; ok {
			return []netip.Addr{netip.MustParseAddr(address)}
		}
		return nil
	}}
	h := plan{world: world, resolver: resolver, environ: []string{"ALLOWED_NETWORKS=", "REGISTRIES="}}.start(t)
	port := portOf(t, echoes)
	authorities := []string{
		echoes, fmt.Sprintf("127.0.0.1:%d", port), fmt.Sprintf("[::1]:%d", port), fmt.Sprintf("[::ffff:127.0.0.1]:%d", port), fmt.Sprintf("0.0.0.0:%d", port),
		"169.254.169.254:80", "[fd00:ec2::254]:80", "100.100.100.200:80", "[64:ff9b::169.254.169.254]:80", "255.255.255.255:443",
	}
	for name := range leads {
		authorities = append(authorities, fmt.Sprintf("%s:%d", name, port), strings.ToUpper(name)+".:443")
	}
	for _, authority := range authorities {
		_, a := h.connect(authority)
		a.expect(t, 403, "ALLOWED_NETWORKS")
		if host, p, _ := strings.Cut(authority, ":"); p == "80" {
			forwarded, err := do(h.http, request(t, "GET", "http://"+host+"/latest/meta-data/", nil))
			if err != nil {
				t.Fatal(err)
			}
			forwarded.wantError(t, "http://"+host, 403, "DENIED", host, "ALLOWED_NETWORKS")
		}
	}
	// No setting lifts this one: a proxy that dials itself loops.
	open := plan{world: world, resolver: resolver, environ: []string{"ALLOWED_NETWORKS=0.0.0.0/0 ::/0"}}.start(t)
	for _, own := range []string{open.address, open.admin} {
		for _, host := range []string{"127.0.0.1", "loopback.test", "[::ffff:127.0.0.1]"} {
			_, a := open.connect(fmt.Sprintf("%s:%d", host, portOf(t, own)))
			a.expect(t, 403, "this proxy's own listener")
		}
	}
	for _, authority := range []string{"noport.test", "x.test:0", "x.test:99999", "x.test:443/path", "x@y.test:443"} {
		if _, a := h.connect(authority); a.status < 400 || a.status >= 500 && a.status != 502 {
			t.Errorf("CONNECT %s = %d, want a refusal", authority, a.status)
		}
	}
}

// A registry that redirects to what we would not dial for a client is not obeyed either.
func TestRedirectsToForbiddenDestinations(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, target := range []string{"http://169.254.169.254/latest/", "https://127.0.0.1:1/x", "http://[::1]:1/x", "file:///etc/passwd", "//169.254.169.254/x"} {
		name := fmt.Sprintf("r%d.test", len(world.HostMap()))
		evil := world.Site(name, http.RedirectHandler(target, http.StatusTemporaryRedirect))
		h := start(t, world, "REGISTRIES="+evil, "ALLOWED_NETWORKS=")
		a := h.ask("GET", "https://"+evil+"/v2/app/blobs/"+digest)
		if a.status < 400 || !strings.Contains(string(a.body), `"errors"`) {
			t.Errorf("a redirect to %s: %d %q, want an error", target, a.status, a.body)
		}
		h.wantLayout()
	}
}
