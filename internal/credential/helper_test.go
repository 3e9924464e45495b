package credential_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
)

func sprint(v any) string { return fmt.Sprintf("%v %+v %#v %s", v, v, v, v) }

// helpers is a directory of credential helpers. Each run of one leaves a line in the file runs.
type helpers struct {
	t   *testing.T
	dir string
}

func newHelpers(t *testing.T) *helpers {
	t.Helper()
	return &helpers{t: t, dir: t.TempDir()}
}

// add writes docker-credential-name, a shell script in which $server is what it was asked for.
func (h *helpers) add(name, script string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, "docker-credential-"+name)
	text := "#!/bin/sh\nserver=$(cat)\necho \"$1 $server\" >>" + h.dir + "/runs\n" + script + "\n"
	next := path + ".next" // replaced as a whole: a script that runs may not be written
	if err := os.WriteFile(next, []byte(text), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *helpers) environ() []string {
	return append(os.Environ(), "PATH="+h.dir+":/usr/bin:/bin", "AUTH_REGISTRIES=quay.io:u:"+canary)
}

func (h *helpers) runs() []string {
	h.t.Helper()
	content, err := os.ReadFile(filepath.Join(h.dir, "runs"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.t.Fatal(err)
	}
	return strings.FieldsFunc(string(content), func(r rune) bool { return r == '\n' })
}

const gives = `echo '{"ServerURL":"x","Username":"AWS","Secret":"` + canary + `"}'`

func TestHelperIsAskedOnceForAWhile(t *testing.T) {
	t.Parallel()
	h := newHelpers(t)
	h.add("ecr-login", gives)
	l, _ := open(t, credential.Config{Environ: h.environ(), Entries: []credential.Entry{
		{Host: "123456789012.dkr.ecr.eu-west-1.amazonaws.com", Helper: "ecr-login"}, {Host: "docker.io", Helper: "ecr-login"}, {Host: "http://plain.test:5000", Helper: "ecr-login"},
	}})
	if !l.Has(t.Context(), "123456789012.dkr.ecr.eu-west-1.amazonaws.com", "a") || len(h.runs()) != 0 {
		t.Error("Has runs a helper that the operator named for the host")
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if got := show(t, l, "123456789012.dkr.ecr.eu-west-1.amazonaws.com", fmt.Sprintf("repo%d", i)); got != "password AWS:"+canary {
				t.Error(got)
			}
		})
	}
	wg.Wait()
	show(t, l, oci.DockerHub, "library/alpine")
	show(t, l, "http://plain.test:5000", "a")
	want := "get 123456789012.dkr.ecr.eu-west-1.amazonaws.com|get https://index.docker.io/v1/|get plain.test:5000"
	if got := strings.Join(h.runs(), "|"); got != want {
		t.Errorf("runs %q, want %q", got, want)
	}
}

// ECR's logins live twelve hours, Google's one: a login that is refused is asked for again, and not for ever.
func TestHelperIsAskedAgainForARefusedLogin(t *testing.T) {
	t.Parallel()
	h := newHelpers(t)
	h.add("rotate", `echo "{\"Username\":\"u\",\"Secret\":\"`+canary+`$(wc -l <`+h.dir+`/runs | tr -d ' ')\"}"`)
	l, _ := open(t, credential.Config{Environ: h.environ(), Entries: []credential.Entry{{Host: "a.test", Helper: "rotate"}}})
	first, err := l.Login(t.Context(), "a.test", "x")
	if err != nil || first.Secret.Reveal() != canary+"1" {
		t.Fatalf("%q, %v", first.Secret.Reveal(), err)
	}
	// Refused although it has just been given: it was replaced meanwhile.
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			second, renewed := l.Renew(t.Context(), "a.test", "x", first)
			if !renewed || second.Secret.Reveal() != canary+"2" {
				t.Errorf("%q, %v, want the second login", second.Secret.Reveal(), renewed)
			}
		})
	}
	wg.Wait()
	second, err := l.Login(t.Context(), "a.test", "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, renewed := l.Renew(t.Context(), "a.test", "x", second); renewed { // it was asked for another a moment ago
		t.Error("a helper is asked again for every login that is refused")
	}
	if got := show(t, l, "a.test", "x"); got != "password u:"+canary+"2" || len(h.runs()) != 2 {
		t.Errorf("%s after %d runs, want the second login and 2 runs", got, len(h.runs()))
	}
}

func TestHelpersThatFail(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, script, want string }{
		{"says that there is none", "echo 'credentials not found in native keychain'; exit 1", "docker-credential-x: has no login for a.test"},
		{"exits", "echo " + canary + "; echo " + canary + " >&2; exit 3", "docker-credential-x: exit status 3: to see why, run it with get as its argument and a.test as its input"},
		{"exits with a login", gives + "; exit 1", "docker-credential-x: exit status 1: "},
		{"is killed", "kill -9 $$", "docker-credential-x: signal: killed: "},
		{"prints no JSON", "echo " + canary, "docker-credential-x: its answer is not the JSON of a login"},
		{"prints nothing", "", "docker-credential-x: its answer is not the JSON of a login"},
		{"prints an empty login", `echo '{"ServerURL":"garbage","Username":"","Secret":""}'`, "docker-credential-x: has no login for a.test"},
		{"prints a colon", `echo '{"Username":"a:b","Secret":"` + canary + `"}'`, "docker-credential-x: its answer has a user name with a colon"},
		{"prints without end", "yes " + canary, "docker-credential-x: prints more than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := newHelpers(t)
			h.add("x", tt.script)
			registry := prometheus.NewRegistry()
			l, log := open(t, credential.Config{Environ: h.environ(), Registerer: registry, Entries: []credential.Entry{{Host: "a.test", Helper: "x", Name: "entry 1"}, fixed("b.test", "", "u")}})
			for range 3 {
				if got := show(t, l, "a.test", "x"); !strings.HasPrefix(got, "error: "+tt.want) {
					t.Errorf("%s, want %s", got, tt.want)
				}
			}
			if !l.Has(t.Context(), "a.test", "x") {
				t.Error("an entry that fails counts as none")
			}
			if got := show(t, l, "b.test", "x"); got != "password u:pw" {
				t.Errorf("another login is gone too: %s", got)
			}
			if len(h.runs()) != 1 || strings.Count(log.String(), "cannot be had") != 1 {
				t.Errorf("%d runs for three questions, want 1, logged once:\n%s", len(h.runs()), log)
			}
			if got := counted(t, registry); got != `credential_failures_total{source="file"} 0, credential_failures_total{source="helper"} 1` {
				t.Errorf("metrics %s", got)
			}
			h.add("x", gives)
			l.Reload()
			if got := show(t, l, "a.test", "x"); got != "password AWS:"+canary {
				t.Errorf("once it works: %s", got)
			}
			// What it gave is kept while it fails again.
			h.add("x", "exit 1")
			l.Reload()
			if got := show(t, l, "a.test", "x"); got != "password AWS:"+canary {
				t.Errorf("while it fails again: %s", got)
			}
		})
	}
}

// counted are the registry's metrics, in order.
func counted(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			out = append(out, fmt.Sprintf("%s{%s=%q} %v", f.GetName(), m.GetLabel()[0].GetName(), m.GetLabel()[0].GetValue(), m.GetCounter().GetValue()))
		}
	}
	return strings.Join(out, ", ")
}

func TestHelperThatIsMissing(t *testing.T) {
	t.Parallel()
	h := newHelpers(t)
	write(t, filepath.Join(h.dir, "docker-credential-plain"), gives) // not executable
	l, _ := open(t, credential.Config{Environ: h.environ(), Entries: []credential.Entry{
		{Host: "a.test", Helper: "gone"}, {Host: "b.test", Helper: "plain"}, {Host: "c.test", Helper: "/nowhere/docker-credential-x"},
	}})
	for host, want := range map[oci.Registry]string{
		"a.test": "error: docker-credential-gone is in no directory of PATH", "b.test": "error: docker-credential-plain is in no directory of PATH",
		"c.test": "error: docker-credential-x: cannot be run: no such file or directory",
	} {
		if got := show(t, l, host, "x"); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

// A helper that hangs, with a child that holds its output open, keeps nobody who is not willing to wait, and goes.
func TestHelperThatHangs(t *testing.T) {
	t.Parallel()
	h := newHelpers(t)
	h.add("hang", "sleep 600 & echo $! >"+h.dir+"/child; wait")
	l, _ := open(t, credential.Config{Environ: h.environ(), HelperTimeout: 2 * time.Second, Entries: []credential.Entry{{Host: "a.test", Helper: "hang"}, fixed("b.test", "", "u")}})
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("client gone")
	waiting := make(chan error)
	go func() {
		_, err := l.Login(ctx, "a.test", "x")
		waiting <- err
	}()
	eventually(t, func() bool { return len(h.runs()) == 1 })
	if got := show(t, l, "b.test", "x"); got != "password u:pw" {
		t.Errorf("another login waits too: %s", got)
	}
	cancel(gone)
	if err := <-waiting; !errors.Is(err, gone) {
		t.Errorf("who left got %v", err)
	}
	start := time.Now()
	if got := show(t, l, "a.test", "x"); !strings.HasPrefix(got, "error: docker-credential-hang: no answer within") || time.Since(start) > 30*time.Second {
		t.Errorf("%s after %v", got, time.Since(start))
	}
	child, err := os.ReadFile(h.dir + "/child")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return !running(strings.TrimSpace(string(child))) })
}

// A helper may leave something behind that keeps its output open, an agent for one.
func TestHelperThatLeavesSomethingBehind(t *testing.T) {
	t.Parallel()
	h := newHelpers(t)
	h.add("agent", "sleep 600 & echo $! >"+h.dir+"/child; "+gives)
	l, _ := open(t, credential.Config{Environ: h.environ(), HelperTimeout: 20 * time.Second, Entries: []credential.Entry{{Host: "a.test", Helper: "agent"}}})
	got := show(t, l, "a.test", "x")
	child, err := os.ReadFile(h.dir + "/child")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(child)))
	if err != nil {
		t.Fatal(err)
	}
	if !running(strconv.Itoa(pid)) {
		t.Error("what it left was ended with it")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if got != "password AWS:"+canary {
		t.Errorf("%s, want the login", got)
	}
}

// running reports whether there is such a process that has not ended.
func running(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

func TestWhatAHelperIsGiven(t *testing.T) {
	t.Parallel()
	h := newHelpers(t)
	path := h.add("look", `env >`+h.dir+`/env; pwd >`+h.dir+`/cwd; `+gives)
	l, _ := open(t, credential.Config{Environ: append(h.environ(), "AWS_PROFILE=team"), Entries: []credential.Entry{{Host: "a.test", Helper: path}}})
	if got := show(t, l, "a.test", "x"); got != "password AWS:"+canary {
		t.Fatal(got)
	}
	env, err := os.ReadFile(h.dir + "/env")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(env), "AWS_PROFILE=team") || strings.Contains(string(env), "AUTH_REGISTRIES") || strings.Contains(string(env), canary) {
		t.Errorf("environment %s", env)
	}
	if cwd, _ := os.ReadFile(h.dir + "/cwd"); string(cwd) != "/\n" {
		t.Errorf("runs in %s", cwd)
	}
}

// A config.json leaves a host to its helper, or else to the store, or else to what is in it.
func TestHelpersOfAConfigFile(t *testing.T) {
	t.Parallel()
	h := newHelpers(t)
	h.add("gcloud", `echo '{"Username":"_dcgcloud_token","Secret":"g"}'`)
	h.add("store", `case $server in
		in.test|https://index.docker.io/v1/) echo '{"Username":"stored","Secret":"s"}';;
		broken.test) exit 7;;
		token.test) echo '{"Username":"<token>","Secret":"idt"}';;
		*) echo 'credentials not found in native keychain'; exit 1;;
	esac`)
	path := filepath.Join(h.dir, "config.json")
	write(t, path, `{"auths": {"gcr.io": {"auth": "`+encode("old:pw")+`"}, "inline.test": {"auth": "`+encode("inline:pw")+`"}, "listed.test": {}},
		"credHelpers": {"gcr.io": "gcloud", "gone.test": "gone"}, "credsStore": "store"}`)
	l, _ := open(t, credential.Config{Environ: h.environ(), Entries: []credential.Entry{{ConfigFile: path}}})
	for _, tt := range []struct {
		host oci.Registry
		want string
		has  bool
	}{
		{"gcr.io", "password _dcgcloud_token:g", true}, {"in.test", "password stored:s", true}, {oci.DockerHub, "password stored:s", true},
		{"token.test", "identity <token>:idt", true}, {"inline.test", "password inline:pw", true}, {"public.test", "none", false},
		{"listed.test", "none", true}, {"gone.test", "error: docker-credential-gone is in no directory of PATH", true},
	} {
		for range 2 {
			if got := show(t, l, tt.host, "x"); got != tt.want {
				t.Errorf("%s: %s, want %s", tt.host, got, tt.want)
			}
			if got := l.Has(t.Context(), tt.host, "x"); got != tt.has {
				t.Errorf("Has(%s) = %v", tt.host, got)
			}
		}
	}
	if got := show(t, l, "broken.test", "x"); !strings.HasPrefix(got, "error: docker-credential-store: exit status 7") || l.Has(t.Context(), "broken.test", "x") {
		t.Errorf("%s, or a store that fails counts as a login", got)
	}
	runs := h.runs()
	before := len(runs)
	for range 100 {
		l.Has(t.Context(), "public.test", "x")
	}
	if len(h.runs()) != before {
		t.Error("a store is asked each time for a host that it does not know")
	}
}

// Whatever a helper prints, it yields a login that can be sent, or an error that quotes nothing.
func FuzzHelperAnswer(f *testing.F) {
	for _, s := range []string{`{"ServerURL":"x","Username":"u","Secret":"s"}`, `{"username":"u","secret":"s"}`, `null`, `{}`, `[1]`, `{"Secret":{}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		login, err := credential.ParseHelper(text)
		switch {
		case err == nil && (login.Secret.Empty() || strings.Contains(login.Username, ":")):
			t.Fatalf("%q gives %+v", text, login)
		case err != nil && !errors.Is(err, credential.ErrNone) && !strings.HasPrefix(err.Error(), "its answer "):
			t.Fatalf("err = %v", err)
		}
	})
}
