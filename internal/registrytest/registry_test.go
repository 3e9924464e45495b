package registrytest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// ask sends a request to a registry and returns the answer, its body read as far as it came.
func ask(t *testing.T, r *registrytest.Registry, method, path string, change ...func(*http.Request)) (*http.Response, []byte, error) {
	t.Helper()
	target := path
	if strings.HasPrefix(path, "/") {
		target = r.URL() + path
	}
	req, err := http.NewRequestWithContext(t.Context(), method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(req)
	}
	client := r.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

// want asks and ends the test if the status is another.
func want(t *testing.T, r *registrytest.Registry, status int, method, path string, change ...func(*http.Request)) (*http.Response, []byte) {
	t.Helper()
	resp, body, err := ask(t, r, method, path, change...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if resp.StatusCode != status {
		t.Fatalf("%s %s: %d %s, want %d", method, path, resp.StatusCode, body, status)
	}
	return resp, body
}

func header(name, value string) func(*http.Request) {
	return func(req *http.Request) { req.Header.Set(name, value) }
}

func login(user, password string) func(*http.Request) {
	return func(req *http.Request) { req.SetBasicAuth(user, password) }
}

func TestAnImageIsServed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		cfg  registrytest.Config
	}{
		{"TLS", registrytest.Config{}},
		{"HTTP/2", registrytest.Config{HTTP2: true}},
		{"plain", registrytest.Config{PlainHTTP: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, tc.cfg)
			img := r.PushImage("library/app", "v1", registrytest.Layer(1, 100_000))
			resp, body := want(t, r, 200, "GET", "/v2/library/app/manifests/v1")
			if !bytes.Equal(body, img.Manifest) || resp.Header.Get("Docker-Content-Digest") != string(img.Digest) {
				t.Errorf("manifest of %d bytes named %s, want %s", len(body), resp.Header.Get("Docker-Content-Digest"), img.Digest)
			}
			layer := img.Layers[0]
			_, body = want(t, r, 206, "GET", "/v2/library/app/blobs/"+string(layer.Digest), header("Range", "bytes=10-19"))
			if !bytes.Equal(body, img.Blobs[layer.Digest][10:20]) {
				t.Errorf("range is %x", body)
			}
			want(t, r, 404, "GET", "/v2/library/other/blobs/"+string(layer.Digest)) // a digest is no permission
			if got := r.BlobBytes(layer.Digest); got != 10 {
				t.Errorf("%d bytes of the layer are noted, want 10", got)
			}
			if got := r.Count("GET", "/blobs/"); got != 2 {
				t.Errorf("%d GETs of blobs are noted, want 2", got)
			}
		})
	}
}

func TestTheSameSeedIsTheSameImage(t *testing.T) {
	t.Parallel()
	a := registrytest.NewImage(nil, registrytest.Layer(7, 1000))
	b := registrytest.NewImage(nil, registrytest.Layer(7, 1000))
	if c := registrytest.NewImage(nil, registrytest.Layer(8, 1000)); a.Digest != b.Digest || a.Digest == c.Digest {
		t.Errorf("digests %s, %s and of another seed %s", a.Digest, b.Digest, c.Digest)
	}
}

// token asks the token service of a challenge.
func token(t *testing.T, r *registrytest.Registry, resp *http.Response, change ...func(*http.Request)) string {
	t.Helper()
	params := map[string]string{}
	for param := range strings.SplitSeq(strings.TrimPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer "), `",`) {
		name, value, _ := strings.Cut(param, `="`)
		params[name] = strings.Trim(value, `"`)
	}
	q := url.Values{"service": {params["service"]}, "scope": {params["scope"]}}
	_, body := want(t, r, 200, "GET", params["realm"]+"?"+q.Encode(), change...)
	var answer struct{ Token string }
	if err := json.Unmarshal(body, &answer); err != nil || answer.Token == "" {
		t.Fatalf("token service answered %s: %v", body, err)
	}
	return answer.Token
}

func TestBearer(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{
		Login: registrytest.Bearer, Users: map[string]string{"anna": "a", "ben": "b"},
		Private: map[string][]string{"team/app": {"anna"}},
	})
	r.PushImage("library/app", "v1")
	r.PushImage("team/app", "v1")
	resp, _ := want(t, r, 401, "GET", "/v2/library/app/manifests/v1")
	anonymous := header("Authorization", "Bearer "+token(t, r, resp))
	want(t, r, 200, "GET", "/v2/library/app/manifests/v1", anonymous)
	want(t, r, 401, "GET", "/v2/team/app/manifests/v1", anonymous)
	want(t, r, 401, "PUT", "/v2/library/app/manifests/v1", anonymous)

	resp, _ = want(t, r, 401, "GET", "/v2/team/app/manifests/v1")
	bearer := header("Authorization", "Bearer "+token(t, r, resp, login("anna", "a")))
	want(t, r, 200, "GET", "/v2/team/app/manifests/v1", bearer)
	seen := r.To("registry.test")
	if last := seen[len(seen)-1]; last.User != "anna" {
		t.Errorf("the registry let %q in, want anna", last.User)
	}
	want(t, r, 401, "GET", "/v2/team/app/manifests/v1", header("Authorization", "Bearer "+token(t, r, resp, login("ben", "b"))))
	r.RevokeTokens()
	resp, _ = want(t, r, 401, "GET", "/v2/team/app/manifests/v1", bearer)
	if !strings.Contains(resp.Header.Get("WWW-Authenticate"), "invalid_token") {
		t.Errorf("challenge to a dead token is %s", resp.Header.Get("WWW-Authenticate"))
	}
}

func TestBasic(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Login: registrytest.Basic, Users: map[string]string{"anna": "a"}})
	want(t, r, 401, "GET", "/v2/")
	want(t, r, 401, "GET", "/v2/", login("anna", "wrong"))
	want(t, r, 200, "GET", "/v2/", login("anna", "a"))
}

func TestCDN(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Redirect: status, RedirectHops: 2}})
		digest := r.PutBlob("a", []byte("hello"))
		resp, _ := want(t, r, status, "GET", "/v2/a/blobs/"+string(digest))
		first := resp.Header.Get("Location")
		want(t, r, 400, "GET", first, header("Authorization", "Bearer x"))
		resp, _ = want(t, r, status, "GET", first)
		second := "https://" + r.CDNHost() + resp.Header.Get("Location")
		if _, body := want(t, r, 200, "GET", second); string(body) != "hello" {
			t.Errorf("the CDN has %q", body)
		}
		want(t, r, 403, "GET", strings.Replace(second, "expires=", "expires=9", 1))
		r.Set(func(f *registrytest.Faults) { f.URLLife = time.Nanosecond })
		resp, _ = want(t, r, status, "GET", "/v2/a/blobs/"+string(digest))
		want(t, r, 403, "GET", resp.Header.Get("Location"))
	}
}

// A fault is of use only if it happens: each one shows.
func TestBodies(t *testing.T) {
	t.Parallel()
	blob := registrytest.Bytes(1, 100_000)
	for _, tc := range []struct {
		name   string
		body   registrytest.Body
		ranged string
		check  func(resp *http.Response, got []byte, err error) bool
	}{
		{"cut", registrytest.Body{CutAfter: 5000}, "", func(_ *http.Response, got []byte, err error) bool {
			return err != nil && bytes.Equal(got, blob[:5000])
		}},
		{"reset", registrytest.Body{CutAfter: 5000, CutReset: true}, "", func(_ *http.Response, got []byte, err error) bool {
			return err != nil && len(got) <= 5000
		}},
		{"corrupt", registrytest.Body{CorruptAt: 1}, "", func(_ *http.Response, got []byte, err error) bool {
			return err == nil && len(got) == len(blob) && got[0] != blob[0] && bytes.Equal(got[1:], blob[1:])
		}},
		{"too long a length", registrytest.Body{LengthOff: 10}, "", func(_ *http.Response, got []byte, err error) bool {
			return err != nil && bytes.Equal(got, blob)
		}},
		{"too short a length", registrytest.Body{LengthOff: -10}, "", func(_ *http.Response, got []byte, err error) bool {
			return bytes.HasPrefix(blob, got) && len(got) < len(blob)
		}},
		{"chunked", registrytest.Body{Chunked: true}, "", func(resp *http.Response, got []byte, err error) bool {
			return err == nil && resp.ContentLength == -1 && len(resp.TransferEncoding) == 1 && bytes.Equal(got, blob)
		}},
		{"until close", registrytest.Body{UntilClose: true}, "", func(resp *http.Response, got []byte, err error) bool {
			return err == nil && resp.ContentLength == -1 && len(resp.TransferEncoding) == 0 && bytes.Equal(got, blob)
		}},
		{"until close, cut", registrytest.Body{UntilClose: true, CutAfter: 5000}, "", func(_ *http.Response, got []byte, err error) bool {
			return err == nil && bytes.Equal(got, blob[:5000]) // looks complete
		}},
		{"gzip", registrytest.Body{Gzip: true}, "", func(resp *http.Response, got []byte, err error) bool {
			return err == nil && resp.Header.Get("Content-Encoding") == "gzip" && !bytes.Equal(got, blob)
		}},
		{"page", registrytest.Body{HTML: true}, "", func(resp *http.Response, got []byte, _ error) bool {
			return resp.StatusCode == 200 && bytes.Contains(got, []byte("<html>"))
		}},
		{"range ignored", registrytest.Body{IgnoreRange: true}, "bytes=5-9", func(resp *http.Response, got []byte, _ error) bool {
			return resp.StatusCode == 200 && bytes.Equal(got, blob)
		}},
		{"wrong bytes of a range", registrytest.Body{LyingRange: registrytest.WrongBytes}, "bytes=5-9", func(resp *http.Response, got []byte, _ error) bool {
			return resp.StatusCode == 206 && len(got) == 5 && !bytes.Equal(got, blob[5:10])
		}},
		{"another range", registrytest.Body{LyingRange: registrytest.OtherRange}, "bytes=5-9", func(resp *http.Response, got []byte, _ error) bool {
			return resp.Header.Get("Content-Range") == "bytes 6-10/100000" && bytes.Equal(got, blob[6:11])
		}},
		{"range not shown", registrytest.Body{LyingRange: registrytest.NoRangeShown}, "bytes=5-9", func(resp *http.Response, got []byte, _ error) bool {
			return resp.StatusCode == 206 && resp.Header.Get("Content-Range") == "" && bytes.Equal(got, blob[5:10])
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.body.Times = 1
			r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Body: tc.body}})
			path := "/v2/a/blobs/" + string(r.PutBlob("a", blob))
			resp, got, err := ask(t, r, "GET", path, func(req *http.Request) {
				if tc.ranged != "" {
					req.Header.Set("Range", tc.ranged)
				}
			})
			if resp == nil || !tc.check(resp, got, err) {
				t.Errorf("got %d bytes, error %v, answer %+v", len(got), err, resp)
			}
			if _, got := want(t, r, 200, "GET", path); !bytes.Equal(got, blob) {
				t.Error("the fault happens more than once")
			}
		})
	}
}

func TestStallUntilTheFaultsChange(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Body: registrytest.Body{StallAfter: 10}}})
	digest := r.PutBlob("a", registrytest.Bytes(1, 1000))
	go func() {
		r.AwaitFunc(1, func(req registrytest.Request) bool { return req.Sent == 10 })
		r.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
	}()
	if _, body := want(t, r, 200, "GET", "/v2/a/blobs/"+string(digest)); len(body) != 1000 {
		t.Errorf("got %d bytes", len(body))
	}
}

func TestOutages(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	r.Set(func(f *registrytest.Faults) {
		f.Registry = registrytest.Outage{Status: 429, RetryAfter: "7", Times: 1}
	})
	if resp, body := want(t, r, 429, "GET", "/v2/"); resp.Header.Get("Retry-After") != "7" || !bytes.Contains(body, []byte("TOOMANYREQUESTS")) {
		t.Errorf("answer is %v %s", resp.Header, body)
	}
	want(t, r, 200, "GET", "/v2/")
	r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{Down: true} })
	if _, _, err := ask(t, r, "GET", "/v2/"); err == nil {
		t.Error("a registry that is down answers")
	}
	r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{HangAccept: true} })
	ended := make(chan error)
	go func() {
		_, _, err := ask(t, r, "GET", "/v2/")
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Errorf("a registry that hangs answers: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	r.Set(func(f *registrytest.Faults) { f.Registry = registrytest.Outage{} })
	if err := <-ended; err == nil {
		t.Error("a connection that hung came to life")
	}
	want(t, r, 200, "GET", "/v2/")
}

func TestPush(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	body := func(text string) func(*http.Request) {
		return func(req *http.Request) { req.Body = io.NopCloser(strings.NewReader(text)) }
	}
	resp, _ := want(t, r, 202, "POST", "/v2/a/blobs/uploads/")
	resp, _ = want(t, r, 202, "PATCH", resp.Header.Get("Location"), body("hello "))
	digest := oci.FromBytes([]byte("hello world"))
	want(t, r, 201, "PUT", resp.Header.Get("Location")+"&digest="+string(digest), body("world"))
	if _, got := want(t, r, 200, "GET", "/v2/a/blobs/"+string(digest)); string(got) != "hello world" {
		t.Errorf("blob is %q", got)
	}
	want(t, r, 201, "POST", "/v2/b/blobs/uploads/?from=a&mount="+string(digest))
	want(t, r, 200, "HEAD", "/v2/b/blobs/"+string(digest))
	want(t, r, 201, "PUT", "/v2/a/manifests/v1", body("{}"), header("Content-Type", registrytest.TypeManifest))
	want(t, r, 200, "GET", "/v2/a/manifests/v1")
}

func TestLists(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{PageSize: 2}})
	img := r.PushImage("a", "v1")
	r.Put("a", "v2", img)
	r.Put("a", "v3", img)
	resp, body := want(t, r, 200, "GET", "/v2/a/tags/list")
	if string(body) != `{"name":"a","tags":["v1","v2"]}` || resp.Header.Get("Link") != `</v2/a/tags/list?n=2&last=v2>; rel="next"` {
		t.Errorf("first page is %s with link %s", body, resp.Header.Get("Link"))
	}
	signature := r.PushReferrer("a", img.Descriptor, "text/signature")
	r.PushReferrer("a", img.Descriptor, "text/other")
	_, body = want(t, r, 200, "GET", "/v2/a/referrers/"+string(img.Digest)+"?artifactType=text/signature")
	if !bytes.Contains(body, []byte(signature.Digest)) || bytes.Contains(body, []byte("text/other")) {
		t.Errorf("referrers are %s", body)
	}
}

func TestHead(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	r.PushImage("a", "v1")
	resp, _ := want(t, r, 200, "HEAD", "/v2/a/manifests/v1")
	if resp.ContentLength <= 0 || resp.Header.Get("Docker-Content-Digest") == "" {
		t.Errorf("HEAD says %v", resp.Header)
	}
	r.Set(func(f *registrytest.Faults) { f.HeadStatus, f.OmitDigestHeader = 405, true })
	want(t, r, 405, "HEAD", "/v2/a/manifests/v1")
	if resp, _ := want(t, r, 200, "GET", "/v2/a/manifests/v1"); resp.Header.Get("Docker-Content-Digest") != "" {
		t.Error("the digest header is there")
	}
}
