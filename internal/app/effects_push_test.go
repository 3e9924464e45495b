package app_test

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"testing"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// login is the header of a login.
func login(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// send sends a request with a body through the proxy.
func (h *house) send(method, address string, body io.Reader, header ...string) answer {
	h.t.Helper()
	a, err := do(h.http, request(h.t, method, address, body, header...))
	if err != nil {
		h.t.Fatalf("%s %s: %v", method, address, err)
	}
	return a
}

// effectAllowPush: refused, or passed through with what the client has brought and nothing else. A tag that was pushed
// is not served as it was before.
func effectAllowPush(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{
		Login: registrytest.Basic, Users: map[string]string{"central": "c", "dev": "d"},
	})
	central := []string{"REGISTRIES=" + reg.Host(), "AUTH_REGISTRY_DELIMITER=|", "AUTH_REGISTRIES=" + reg.Host() + "|central|c", "ENABLE_MANIFEST_CACHE=true"}
	old := reg.PushImage("app", "1.0.0", layers(1, 1, 1000)...)
	img := registrytest.NewImage(nil, layers(2, 1, 1000)...)
	base := reg.URL() + "/v2/app/"

	off := start(t, reg.World, central...)
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		for _, path := range []string{"blobs/uploads/", "blobs/uploads/x", "manifests/1.0.0", "blobs/" + string(old.Config.Digest)} {
			off.send(method, base+path, nil, "Authorization", login("dev", "d")).expect(t, 405, "UNSUPPORTED", "ALLOW_PUSH=true")
		}
	}
	if n := len(reg.Requests()); n != 0 {
		t.Fatalf("the registry saw %d requests of refused pushes", n)
	}

	on := start(t, reg.World, append(central, "ALLOW_PUSH=true")...)
	on.pull(reg, "app", "1.0.0") // fresh for 60 days
	reg.Forget()
	dev := []string{"Authorization", login("dev", "d")}
	for digest, blob := range img.Blobs {
		session := on.send("POST", base+"blobs/uploads/", nil, dev...).expect(t, 202).header.Get("Location")
		moved := on.send("PATCH", reg.URL()+session, bytes.NewReader(blob), dev...).expect(t, 202).header.Get("Location")
		on.send("PUT", reg.URL()+moved+"&digest="+string(digest), nil, dev...).expect(t, 201)
	}
	on.send("PUT", base+"manifests/1.0.0", bytes.NewReader(img.Manifest), append(dev, "Content-Type", img.MediaType)...).expect(t, 201)
	for _, r := range reg.Requests() {
		if r.Authorization() != dev[1] {
			t.Errorf("%s %s reached the registry with %q, want the client's own", r.Method, r.Path, r.Authorization())
		}
	}
	if got := on.pull(reg, "app", "1.0.0").desc.Digest; got != img.Digest {
		t.Errorf("after the push of %s the tag is still served as %s", img.Digest, got)
	}

	reg.Forget()
	on.send("PUT", base+"manifests/1.0.0", bytes.NewReader(img.Manifest), "Content-Type", img.MediaType).expect(t, 401)
	on.send("DELETE", base+"manifests/"+string(img.Digest), nil).expect(t, 401)
	for _, r := range reg.Requests() {
		if r.Authorization() != "" {
			t.Errorf("%s %s of a client without a login reached the registry with %q", r.Method, r.Path, r.Authorization())
		}
	}
}

// effectRequestBuffering: what upstream sees of a push whose second half the client holds back.
func effectRequestBuffering(t *testing.T) {
	for _, buffered := range []bool{true, false} {
		reg := registrytest.New(t, registrytest.Config{})
		other := reg.PushImage("other", "1", layers(1, 1, 1000)...)
		environ := []string{"REGISTRIES=" + reg.Host(), "ALLOW_PUSH=true"}
		if !buffered { // true is the default
			environ = append(environ, "PROXY_REQUEST_BUFFERING=false")
		}
		h := start(t, reg.World, environ...)
		body, client := io.Pipe()
		answered := make(chan answer, 1)
		blob := registrytest.Bytes(1, 300_000)
		go func() {
			a, err := do(h.http, request(t, "POST", reg.URL()+"/v2/app/blobs/uploads/?digest="+string(oci.FromBytes(blob)), body))
			if err != nil {
				t.Errorf("push: %v", err)
			}
			answered <- a
		}()
		if _, err := client.Write(blob[:200_000]); err != nil {
			t.Fatal(err)
		}
		if buffered {
			h.pull(reg, "other", string(other.Digest)) // takes its time, all of which upstream hears nothing
			if n := reg.Count("POST", ""); n != 0 {
				t.Errorf("the registry hears of a push of which a third is missing")
			}
		} else {
			reg.Await(1, "POST", "/uploads/")
		}
		if _, err := client.Write(blob[200_000:]); err != nil {
			t.Fatal(err)
		}
		_ = client.Close()
		(<-answered).expect(t, http.StatusCreated)
		pushes := reg.Find(func(r registrytest.Request) bool { return r.Method == "POST" })
		if len(pushes) != 1 {
			t.Fatalf("the registry saw %d pushes, want 1", len(pushes))
		}
		// What came in pieces has a length only after all of it has come.
		if got := pushes[0].Header.Get("Content-Length") != ""; got != buffered {
			t.Errorf("buffering %v: a length is known upstream = %v", buffered, got)
		}
	}
}
