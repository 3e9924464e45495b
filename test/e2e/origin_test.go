package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// origin is a registry with an image, and a count of what was asked of it.
type origin struct {
	host    string // as in an image's name
	image   registrytest.Image
	private bool // only user may pull it
	// blobGETs is how many blobs have been asked for.
	blobGETs func() int
	// users is the file with what opens it, where it has one; it is read again when it has changed.
	users string
}

// The image of every origin.
const (
	repository = "team/app"
	tag        = "1.0.0"
)

func (o origin) reference() string { return o.host + "/" + repository + ":" + tag }

var blobGET = regexp.MustCompile(`"GET /v2/\S+/blobs/sha256:\S+ HTTP/`)

// debianRegistry starts Debian's docker-registry over TLS, with a user and a password if password is not empty.
func debianRegistry(t *testing.T, world *registrytest.World, name, password string, img registrytest.Image) origin {
	t.Helper()
	need(t, "docker-registry")
	dir := t.TempDir()
	at := world.Reserve(name)
	crt, key := writePair(t, world, dir, name)
	config := fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}
http: {addr: "%s", tls: {certificate: %s, key: %s}}
`, filepath.Join(dir, "data"), at, crt, key)
	users := ""
	if password != "" {
		need(t, "htpasswd")
		line, err := exec.Command("htpasswd", "-nbB", user, password).Output()
		if err != nil {
			t.Fatalf("htpasswd: %v", err)
		}
		users = writeFile(t, filepath.Join(dir, "htpasswd"), string(line))
		config += fmt.Sprintf("auth: {htpasswd: {realm: e2e, path: %s}}\n", users)
	}
	d := command{args: []string{"docker-registry", "serve", writeFile(t, filepath.Join(dir, "config.yml"), config)}}.start(t)
	o := origin{
		host: fmt.Sprintf("%s:%d", name, at.Port()), image: img, private: password != "", users: users,
		blobGETs: func() int { return len(blobGET.FindAllString(d.text(), -1)) },
	}
	d.awaitReady(answers(world.Client(), "https://"+o.host+"/v2/"))
	push(t, world.Client(), o, password)
	return o
}

// user is the one who may pull what is not for everyone.
const user = "robot"

// tokenRegistry starts the fake with a token service of its own host, private images, and a CDN that refuses Authorization.
func tokenRegistry(t *testing.T, world *registrytest.World, name string, img registrytest.Image) (origin, *registrytest.Registry) {
	t.Helper()
	r := registrytest.New(t, registrytest.Config{
		World: world, Name: name, Login: registrytest.Bearer, Users: map[string]string{user: password},
		Private: map[string][]string{repository: {user}}, Tokens: registrytest.Tokens{BothNames: true}, Faults: registrytest.Faults{Redirect: http.StatusTemporaryRedirect},
	})
	r.Put(repository, tag, img)
	return origin{host: r.Host(), image: img, private: true, blobGETs: func() int { return r.Count("GET", "/blobs/") }}, r
}

func writePair(t *testing.T, world *registrytest.World, dir, name string) (crt, key string) {
	t.Helper()
	pair := world.Certificate(time.Now().Add(24*time.Hour), name)
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	crt = writeFile(t, filepath.Join(dir, "tls.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})))
	key = writeFile(t, filepath.Join(dir, "tls.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return crt, key
}

// push uploads an origin's image, past the proxy.
func push(t *testing.T, client *http.Client, o origin, password string) {
	t.Helper()
	send := func(method, url, mediaType string, body []byte, want int) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", mediaType)
		if password != "" {
			req.SetBasicAuth(user, password)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Fatalf("%s %s: status %d, want %d", method, url, resp.StatusCode, want)
		}
		return resp
	}
	base := "https://" + o.host + "/v2/" + repository
	for digest, blob := range o.image.Blobs {
		started := send("POST", base+"/blobs/uploads/", "", nil, http.StatusAccepted)
		location, err := started.Location()
		if err != nil {
			t.Fatal(err)
		}
		q := location.Query()
		q.Set("digest", string(digest))
		location.RawQuery = q.Encode()
		send("PUT", location.String(), "application/octet-stream", blob, http.StatusCreated)
	}
	pushed := send("PUT", base+"/manifests/"+tag, registrytest.TypeManifest, o.image.Manifest, http.StatusCreated)
	if got := oci.Digest(pushed.Header.Get("Docker-Content-Digest")); got != o.image.Digest {
		t.Fatalf("%s names the manifest %s, want %s", o.host, got, o.image.Digest)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
