package e2e

import (
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/registrytest"
)

// What "make run" prints is what a newcomer does next; so does this test.
func TestMakeRun(t *testing.T) {
	t.Parallel()
	need(t, "make", "podman", "curl")
	world := registrytest.NewWorld(t)
	hub := registrytest.New(t, registrytest.Config{
		World: world, Name: "registry-1.docker.io", Port: 443, TokenName: "auth.docker.io", TokenPort: 443, CDNName: "cdn.docker.test",
		Login: registrytest.Bearer, Faults: registrytest.Faults{Redirect: http.StatusTemporaryRedirect},
	})
	img := newImage(t, 80)
	hub.Put("library/alpine", "latest", img)
	p := newProxy(t, world, "ALLOWED_NETWORKS=127.0.0.0/8")
	env, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		t.Fatalf("go env: %v", err)
	}
	caches := strings.Fields(string(env))
	p.daemon = command{
		args:   []string{"make", "-C", "../..", "run", "BIN=" + t.TempDir()},
		env:    append(p.env, "GOCACHE="+caches[0], "GOMODCACHE="+caches[1], "GOFLAGS=-buildvcs=false"),
		mounts: hostsMount(t, world),
	}.start(t)
	p.awaitReady()

	printed := ""
	for line := range strings.Lines(p.daemon.text()) {
		if !strings.HasPrefix(line, "{") && !strings.HasPrefix(line, "make") { // neither log nor make
			printed += line
		}
	}
	if n := strings.Count(printed, "\n"); n > 15 {
		t.Errorf("%d lines are not a few:\n%s", n, printed)
	}
	block, _ := pem.Decode(readFile(t, p.ca()))
	fingerprint := strings.ReplaceAll(fmt.Sprintf("% X", sha256.Sum256(block.Bytes)), " ", ":")
	for _, want := range []string{p.address, p.ca(), fingerprint} {
		if !strings.Contains(printed, want) {
			t.Errorf("%q is not in what is printed:\n%s", want, printed)
		}
	}
	for _, daemon := range []string{"dockerd", "containerd"} {
		if got, _, _ := strings.Cut(next(t, printed, daemon), "|"); !strings.Contains(p.shell(t, got), "systemctl") {
			t.Errorf("%s for %s gives no script", got, daemon)
		}
	}
	p.shell(t, next(t, printed, "podman"))
	if got := hub.Count("GET", "/blobs/"); got == 0 {
		t.Error("Docker Hub was asked for no blob")
	}

	p.daemon.stop()
	if conn, err := net.Dial("tcp", p.address); err == nil {
		_ = conn.Close()
		t.Error("make has ended and the proxy still listens")
	}
}

// next is the line that is printed for a client.
func next(t *testing.T, printed, client string) string {
	t.Helper()
	line := regexp.MustCompile(`(?m)^\s*` + client + `\s+(.*)$`).FindStringSubmatch(printed)
	if line == nil {
		t.Fatalf("no line for %s:\n%s", client, printed)
	}
	return line[1]
}

// shell runs a line on a client: it has nothing but what the line says.
func (p *proxy) shell(t *testing.T, line string) string {
	t.Helper()
	dir := t.TempDir()
	return command{args: []string{"sh", "-c", "cd " + dir + "; " + line}, mounts: containersMounts(t, dir)}.run(t)
}

// stalledPull is a GET of a layer through the proxy, of which the registry has sent a part.
type stalledPull struct {
	fake  *registrytest.Registry
	layer oci.Descriptor
	body  io.ReadCloser
	begun []byte
}

func startStalledPull(t *testing.T) (*proxy, *stalledPull) {
	t.Helper()
	world := registrytest.NewWorld(t)
	fake := registrytest.New(t, registrytest.Config{World: world, Name: "slow.test", Faults: registrytest.Faults{Body: registrytest.Body{StallAfter: 1 << 20}}})
	img := newImage(t, 90)
	fake.Put(repository, tag, img)
	p := startProxy(t, world, "REGISTRIES="+fake.Host(), "ALLOWED_NETWORKS=127.0.0.0/8")
	s := &stalledPull{fake: fake, layer: img.Layers[1], begun: make([]byte, 64<<10)}
	resp, err := p.client(t).Get("https://" + fake.Host() + "/v2/" + repository + "/blobs/" + string(s.layer.Digest))
	if err != nil {
		t.Fatal(err)
	}
	s.body = resp.Body
	t.Cleanup(func() { _ = s.body.Close() })
	if _, err := io.ReadFull(s.body, s.begun); err != nil {
		t.Fatalf("first bytes of a slow layer: %v", err)
	}
	return p, s
}

// signal sends SIGTERM and waits until the proxy has heard of it.
func (p *proxy) signal(t *testing.T) {
	t.Helper()
	if err := p.daemon.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.daemon.awaitReady(func() error {
		conn, err := net.Dial("tcp", p.address)
		if err != nil {
			return nil
		}
		_ = conn.Close()
		return errors.New("it takes new clients still")
	})
}

func TestFirstSIGTERMLetsAPullFinish(t *testing.T) {
	t.Parallel()
	p, pull := startStalledPull(t)
	p.signal(t)
	pull.fake.Set(func(f *registrytest.Faults) { f.Body = registrytest.Body{} })
	rest, err := io.ReadAll(pull.body)
	if err != nil {
		t.Fatalf("the rest of the layer after SIGTERM: %v", err)
	}
	if got := oci.FromBytes(append(pull.begun, rest...)); got != pull.layer.Digest {
		t.Errorf("the layer is %s, want %s", got, pull.layer.Digest)
	}
	_ = pull.body.Close()
	p.daemon.awaitEnd()
	if code := p.daemon.exitCode(); code != 0 {
		t.Errorf("the proxy ended with %d, want 0", code)
	}
}

func TestSecondSIGTERMEndsAtOnce(t *testing.T) {
	t.Parallel()
	p, pull := startStalledPull(t)
	p.signal(t)
	if err := p.daemon.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.daemon.awaitEnd()
	if code := p.daemon.exitCode(); code != 128+int(syscall.SIGTERM) {
		t.Errorf("the proxy ended with %d, want 143", code)
	}
	if rest, err := io.ReadAll(pull.body); err == nil {
		t.Errorf("the layer ended cleanly after %d bytes, want a cut connection", len(pull.begun)+len(rest))
	}
}

// awaitEnd waits until the program has ended by itself.
func (d *daemon) awaitEnd() {
	d.t.Helper()
	select {
	case <-d.ended:
	case <-time.After(stopTimeout):
		d.t.Fatalf("%s has not ended after %s", d.name, stopTimeout)
	}
}

// The program as it is built leaves a small heap in peace, unless the operator has said how often it is to be collected.
func TestSmallHeapIsLeftInPeace(t *testing.T) {
	t.Parallel()
	world := registrytest.NewWorld(t)
	for name, tc := range map[string]struct {
		env    []string
		wanted func(percent int) bool
	}{
		"by itself": {nil, func(percent int) bool { return percent > 100 }},
		"GOGC=50":   {[]string{"GOGC=50"}, func(percent int) bool { return percent == 50 }},
	} {
		p := startProxy(t, world, tc.env...)
		resp, err := http.Get("http://" + p.admin + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(body), "\ngo_gc_gogc_percent ")
		line, _, _ := strings.Cut(rest, "\n")
		if percent, err := strconv.Atoi(line); err != nil || !tc.wanted(percent) {
			t.Errorf("%s: go_gc_gogc_percent is %q", name, line)
		}
	}
}
