package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// role tells a copy of the test binary what to be.
const role = "TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "stubborn": // drains for ever
		ctx := untilSignal(context.Background())
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println("draining")
		select {}
	case "obedient":
		ctx := untilSignal(context.Background())
		fmt.Println("ready")
		<-ctx.Done()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// execute runs a command line in this process.
func execute(t *testing.T, environ []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), process{args: args, environ: environ, stdout: &out, stderr: &errs})
	return code, out.String(), errs.String()
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string // a part of it; "" means nothing is written
	}{
		{"help", []string{"--help"}, 0, "healthcheck", ""},
		{"nothing is help", nil, 0, "serve", ""},
		{"help of serve", []string{"serve", "--help"}, 0, "docs/configuration.md", ""},
		{"version", []string{"version"}, 0, "container-registry-proxy ", ""},
		{"unknown command", []string{"sevre"}, 2, "", `"sevre" for "container-registry-proxy": want one of completion, demo, doctor,`},
		{"unknown flag", []string{"serve", "--port=1"}, 2, "", "--port: container-registry-proxy serve --help"},
		{"argument too many", []string{"serve", "now"}, 2, "", `"now" is nothing for "container-registry-proxy serve"`},
		{"help of a command", []string{"help", "serve"}, 0, "docs/configuration.md", ""},
		{"help alone", []string{"help"}, 0, "healthcheck", ""},
		{"help of nothing", []string{"help", "sevre"}, 2, "", "want one of completion"},
		{"a shell", []string{"completion", "bash"}, 0, "bash completion", ""},
		{"no shell", []string{"completion"}, 0, "fish", ""},
		{"unknown shell", []string{"completion", "tcsh"}, 2, "", `"tcsh" for "container-registry-proxy completion": want one of bash, fish`},
	} {
		code, stdout, stderr := execute(t, nil, tt.args...)
		if code != tt.code || !part(stdout, tt.stdout) || !part(stderr, tt.stderr) {
			t.Errorf("%s: exit %d, stdout %q, stderr %q; want %d, %q, %q", tt.name, code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
		}
	}
}

func part(got, want string) bool {
	if want == "" {
		return got == ""
	}
	return strings.Contains(got, want)
}

func TestEveryLineOfAnErrorIsALine(t *testing.T) {
	t.Parallel()
	code, _, stderr := execute(t, []string{"CACHE_MAX_SIZE=huge", "LISTEN=nowhere", "CACHE_DIRECTORY=" + t.TempDir(), "CA_DIRECTORY=" + t.TempDir()}, "serve")
	if code != exitUsage {
		t.Errorf("exit %d, want %d: %s", code, exitUsage, stderr)
	}
	for _, name := range []string{"CACHE_MAX_SIZE", "LISTEN"} {
		lines := 0
		for line := range strings.Lines(stderr) {
			if strings.HasPrefix(line, "container-registry-proxy: ") && strings.Contains(line, name) {
				lines++
			}
		}
		if lines != 1 {
			t.Errorf("%d lines name %s, want 1: %s", lines, name, stderr)
		}
	}
}

// Where it cannot start it says which setting that is about, and what would be right.
func TestServeCannotStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct{ name, value, want string }{
		{"LISTEN", taken.Addr().String(), "want another port, such as :3228"},
		{"ADMIN_LISTEN", taken.Addr().String(), "want another port, such as :3228"},
		{"LISTEN", "192.0.2.123:0", "want an address that this machine has, or none, such as :3128"},
		{"CA_DIRECTORY", "/proc/none", "mkdir"},
		{"CACHE_DIRECTORY", "/proc/none", "it must be a directory that this process may write"},
	} {
		code, _, stderr := execute(t, []string{"LISTEN=127.0.0.1:0", "ADMIN_LISTEN=127.0.0.1:0", "HOME=" + t.TempDir(), tt.name + "=" + tt.value}, "serve")
		if code != exitFailure || !strings.Contains(stderr, tt.name) || !strings.Contains(stderr, tt.value) || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s=%s: exit %d, stderr %q; want %d, the setting and %q", tt.name, tt.value, code, stderr, exitFailure, tt.want)
		}
	}
}

// What a newcomer reads first is all that is needed: where it is, whom to trust, and a line to paste for each client.
func TestServeGreets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, stdout := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	code := make(chan int, 1)
	var log bytes.Buffer
	go func() {
		code <- run(ctx, process{args: []string{"serve"}, environ: []string{"LISTEN=:0", "ADMIN_LISTEN=127.0.0.1:0", "HOME=" + dir}, stdout: stdout, stderr: &log})
		_ = stdout.Close()
	}()
	var greeting string
	lines := bufio.NewScanner(out)
	for !strings.Contains(greeting, "Pull twice") && lines.Scan() {
		greeting += lines.Text() + "\n"
	}
	address := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(greeting)
	if address == "" {
		t.Fatalf("the greeting has no address that a client of this machine can use:\n%s", greeting)
	}
	resp, err := http.Get(address + "/ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	served, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(served)
	if block == nil {
		t.Fatalf("%s/ca.crt is %q", address, served)
	}
	file := filepath.Join(dir, ".local/share/container-registry-proxy/ca/ca.crt")
	if kept, err := os.ReadFile(file); err != nil || !bytes.Equal(kept, served) {
		t.Errorf("%s is not the certificate that is served: %v", file, err)
	}
	for what, want := range map[string]string{
		"the authority's file":        "CA     " + file + "\n",
		"the authority's fingerprint": "SHA-256 " + strings.ReplaceAll(fmt.Sprintf("% X", sha256.Sum256(block.Bytes)), " ", ":") + "\n",
		"the cache's directory":       filepath.Join(dir, ".cache/container-registry-proxy") + ", 32g at most\n",
		"a line for dockerd":          "\n  dockerd     curl -fsS " + address + "/setup/docker | sudo sh\n",
		"a line for containerd":       "\n  containerd  curl -fsS " + address + "/setup/containerd | sudo sh\n",
		"a line for podman":           "\n  podman      curl -fsS " + address + "/ca.crt -o ca.crt && HTTPS_PROXY=" + address + " ",
	} {
		if !strings.Contains(greeting, want) {
			t.Errorf("the greeting lacks %s (%q):\n%s", what, want, greeting)
		}
	}
	stop()
	if got := <-code; got != 0 {
		t.Errorf("exit %d after the signal, want 0: %s", got, &log)
	}
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	healthy := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" || !healthy {
			http.Error(w, "the disk is on fire", http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	listen := strings.TrimPrefix(server.URL, "http://")
	if err := checkHealth(t.Context(), listen); err != nil {
		t.Errorf("healthy: %v", err)
	}
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		t.Fatal(err)
	}
	for _, unspecified := range []string{":" + port, "0.0.0.0:" + port} {
		if err := checkHealth(t.Context(), unspecified); err != nil {
			t.Errorf("listening on %s: %v", unspecified, err)
		}
	}
	healthy = false
	if err := checkHealth(t.Context(), listen); err == nil || !strings.Contains(err.Error(), "on fire") {
		t.Errorf("sick: err = %v, want the reason", err)
	}
	server.Close()
	if err := checkHealth(t.Context(), listen); err == nil {
		t.Error("nobody listens: no error")
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		role    string
		signals []os.Signal
		code    int
	}{
		{"the first drains", "obedient", []os.Signal{syscall.SIGTERM}, 0},
		{"a second SIGTERM ends at once", "stubborn", []os.Signal{syscall.SIGTERM, syscall.SIGTERM}, 143},
		{"a second SIGINT ends at once", "stubborn", []os.Signal{syscall.SIGTERM, os.Interrupt}, 130},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), role+"="+tt.role)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for _, signal := range tt.signals {
				if !lines.Scan() { // it says where it has come to before each
					t.Fatalf("process ended early: %v", lines.Err())
				}
				if err := cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Wait() // its error is the code
			if got := cmd.ProcessState.ExitCode(); got != tt.code {
				t.Errorf("exit %d, want %d", got, tt.code)
			}
		})
	}
}

// The show is the real program from end to end: a proxy is started, pulled through twice and stopped.
func TestDemo(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("pulls 32 MiB over a slow link")
	}
	code, stdout, stderr := execute(t, nil, "demo")
	first, second, found := strings.Cut(stdout, "\npull 2 of ")
	if code != 0 || !found || strings.Count(first, "MISS") != 5 || strings.Count(second, "HIT") < 5 || strings.Contains(first, "HIT") {
		t.Errorf("exit %d; want 0, five MISS, then HIT alone:\n%s\n%s", code, stdout, stderr)
	}
}
