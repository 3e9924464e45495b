package ratelimit_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
)

const hub, quay = oci.Registry("docker.io"), oci.Registry("quay.io")

var (
	nobody = ratelimit.Account{}
	robot  = ratelimit.Account{Class: "central", Name: "1"}
)

// desk is a watch with a clock of its own.
type desk struct {
	*ratelimit.Watch
	t   *testing.T
	now time.Time
}

// memory is a database.
type memory map[string][]byte

func (m memory) Put(bucket, key string, value []byte) { m[bucket+key] = value }
func (m memory) Delete(bucket, key string)            { delete(m, bucket+key) }
func (m memory) Scan(bucket, prefix string, visit func(string, []byte) bool) {
	for key, value := range m {
		if rest, ok := strings.CutPrefix(key, bucket); ok && strings.HasPrefix(rest, prefix) && !visit(rest, value) {
			return
		}
	}
}

func open(t *testing.T, db ratelimit.DB, registerer prometheus.Registerer) *desk {
	d := &desk{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	d.Watch = ratelimit.New(ratelimit.Config{
		Reserve: ratelimit.DefaultReserve, DB: db, Registerer: registerer, Now: func() time.Time { return d.now },
		Registries: func(r oci.Registry) string { return string(r) },
	})
	return d
}

func (d *desk) pass(period time.Duration) { d.now = d.now.Add(period) }

// ask sends a request that is answered with status, and reports whether it was sent at all.
func (d *desk) ask(reg oci.Registry, a ratelimit.Account, kind ratelimit.Kind, status int, header ...string) bool {
	turn, err := d.Enter(reg, a, kind, ratelimit.Client)
	if err != nil {
		return false
	}
	answer := ratelimit.Answer{Status: status, Header: http.Header{}, Body: []byte("enough")}
	for i := 0; i+1 < len(header); i += 2 {
		answer.Header.Set(header[i], header[i+1])
	}
	turn.Done(answer)
	return true
}

// sent fails the test unless a request is sent, or is not.
func (d *desk) sent(want bool, reg oci.Registry, a ratelimit.Account, kind ratelimit.Kind, status int, header ...string) {
	d.t.Helper()
	if got := d.ask(reg, a, kind, status, header...); got != want {
		d.t.Fatalf("%s request to %s as %+v at %v: sent %t, want %t", kind, reg, a, d.now, got, want)
	}
}

func TestACoolDownLastsAsLongAsTheRegistrySays(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": time.Minute, "soon": time.Minute, "-5": time.Minute, "30": 30 * time.Second, "0": time.Second, "3600": time.Hour,
		"86400": 6 * time.Hour, "99999999999": time.Minute,
		start.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
		start.Add(-time.Hour).Format(http.TimeFormat):       time.Second,
		start.Add(48 * time.Hour).Format(http.TimeFormat):   6 * time.Hour,
	} {
		d := open(t, nil, nil)
		d.sent(true, hub, nobody, ratelimit.Manifest, 429, "Retry-After", header)
		d.pass(want - time.Millisecond)
		d.sent(false, hub, nobody, ratelimit.Manifest, 200)
		d.pass(time.Millisecond)
		d.sent(true, hub, nobody, ratelimit.Manifest, 200)
		d.sent(true, hub, nobody, ratelimit.Manifest, 200)
	}
}

func TestWithoutARetryAfterStepsDoubleToAQuarterOfAnHour(t *testing.T) {
	t.Parallel()
	d := open(t, nil, nil)
	for _, step := range []time.Duration{1, 2, 4, 8, 15, 15} {
		d.sent(true, hub, nobody, ratelimit.Manifest, 429)
		d.pass(step*time.Minute - time.Second)
		d.sent(false, hub, nobody, ratelimit.Manifest, 200)
		d.pass(time.Second)
	}
	d.sent(true, hub, nobody, ratelimit.Manifest, 200)
	d.sent(true, hub, nobody, ratelimit.Manifest, 429) // begins anew
	d.pass(time.Minute)
	d.sent(true, hub, nobody, ratelimit.Manifest, 404)
	d.sent(true, hub, nobody, ratelimit.Manifest, 200)
}

func TestOneRequestProbes(t *testing.T) {
	t.Parallel()
	d := open(t, nil, nil)
	d.sent(true, hub, nobody, ratelimit.Manifest, 429)
	d.pass(time.Minute)
	probe, err := d.Enter(hub, nobody, ratelimit.Manifest, ratelimit.Client)
	if err != nil {
		t.Fatal(err)
	}
	d.sent(false, hub, nobody, ratelimit.Manifest, 200)
	probe.Done(ratelimit.Answer{}) // the connection broke: nobody knows
	d.sent(true, hub, nobody, ratelimit.Manifest, 503)
	lost, err := d.Enter(hub, nobody, ratelimit.Manifest, ratelimit.Client)
	if err != nil {
		t.Fatal(err)
	}
	d.pass(2 * time.Minute)
	d.sent(true, hub, nobody, ratelimit.Manifest, 200) // the lost one keeps nobody for ever
	lost.Done(ratelimit.Answer{Status: 200})
}

// A herd that was on its way when the first 429 came has one step, not one for each.
func TestAHerdOfRefusalsIsOne(t *testing.T) {
	t.Parallel()
	d := open(t, nil, nil)
	var herd []*ratelimit.Turn
	for range 50 {
		turn, err := d.Enter(hub, nobody, ratelimit.Manifest, ratelimit.Client)
		if err != nil {
			t.Fatal(err)
		}
		herd = append(herd, turn)
	}
	for _, turn := range herd {
		d.pass(time.Millisecond)
		turn.Done(ratelimit.Answer{Status: 429})
	}
	d.pass(time.Minute)
	d.sent(true, hub, nobody, ratelimit.Manifest, 429)
	d.pass(2 * time.Minute)
	d.sent(true, hub, nobody, ratelimit.Manifest, 200)
}

func TestWhatIsLeftAlone(t *testing.T) {
	t.Parallel()
	d := open(t, nil, nil)
	d.sent(true, hub, nobody, ratelimit.Manifest, 429)
	d.sent(false, hub, nobody, ratelimit.Manifest, 200)
	for _, kind := range []ratelimit.Kind{ratelimit.Head, ratelimit.Blob, ratelimit.Token} {
		d.sent(true, hub, nobody, kind, 200)
	}
	d.sent(true, hub, robot, ratelimit.Manifest, 200)
	d.sent(true, quay, nobody, ratelimit.Manifest, 200)
	d.sent(true, hub, robot, ratelimit.Head, 429) // another account's is no second kind
	d.sent(true, hub, nobody, ratelimit.Blob, 200)

	d.pass(30 * time.Second)
	d.sent(true, hub, nobody, ratelimit.Head, 429)
	for _, kind := range []ratelimit.Kind{ratelimit.Manifest, ratelimit.Head, ratelimit.Blob, ratelimit.Other} {
		d.sent(false, hub, nobody, kind, 200)
		d.sent(false, hub, robot, kind, 200)
	}
	d.sent(true, quay, nobody, ratelimit.Head, 200)
	d.pass(time.Minute)
	d.sent(true, hub, robot, ratelimit.Blob, 200)
	d.sent(true, hub, nobody, ratelimit.Head, 200)
}

func TestATokenServiceOnItsOwn(t *testing.T) {
	t.Parallel()
	d := open(t, nil, nil)
	d.sent(true, hub, nobody, ratelimit.Token, 429)
	d.sent(false, hub, nobody, ratelimit.Token, 200)
	d.sent(true, hub, nobody, ratelimit.Manifest, 429) // no second kind of the registry's
	d.sent(true, hub, nobody, ratelimit.Blob, 200)
}

func TestMeanwhileTheRegistrysOwnWordsAreGiven(t *testing.T) {
	t.Parallel()
	d := open(t, nil, nil)
	d.sent(true, hub, nobody, ratelimit.Manifest, 429, "Retry-After", "90", "RateLimit-Limit", "100;w=21600", "Content-Type", "application/json", "Set-Cookie", "a=b")
	d.pass(29500 * time.Millisecond)
	_, err := d.Enter(hub, nobody, ratelimit.Manifest, ratelimit.Client)
	cooling, ok := errors.AsType[*ratelimit.CoolingError](err)
	if !ok {
		t.Fatalf("Enter: %v", err)
	}
	header := cooling.Header()
	if string(cooling.Answer.Body) != "enough" || header.Get("Retry-After") != "61" || header.Get("RateLimit-Limit") != "100;w=21600" || header.Get("Content-Type") != "application/json" {
		t.Errorf("body %q, header %v", cooling.Answer.Body, header)
	}
	if header.Get("Set-Cookie") != "" {
		t.Errorf("header %v has a cookie", header)
	}
}

func TestACoolDownSurvivesARestart(t *testing.T) {
	t.Parallel()
	db := memory{}
	d := open(t, db, nil)
	d.sent(true, hub, nobody, ratelimit.Manifest, 429, "Retry-After", "600")
	d.sent(true, hub, robot, ratelimit.Blob, 429, "Retry-After", "600")
	d.sent(true, quay, ratelimit.Account{Class: "own", Name: "of this process"}, ratelimit.Blob, 429, "Retry-After", "600")
	d.sent(true, quay, nobody, ratelimit.Head, 429, "Retry-After", "2")
	if len(db) != 3 {
		t.Errorf("%d records, want those of the three accounts that there are after a restart too", len(db))
	}
	later := d.now.Add(5 * time.Second)
	d = open(t, db, nil)
	d.now = later
	d.sent(false, hub, nobody, ratelimit.Manifest, 200)
	d.sent(false, hub, robot, ratelimit.Blob, 200)
	d.sent(true, quay, nobody, ratelimit.Head, 200)
	d.pass(10 * time.Minute)
	d.sent(true, hub, nobody, ratelimit.Manifest, 200)
	d.sent(true, hub, robot, ratelimit.Blob, 200)
	if len(db) != 0 {
		t.Errorf("%d records of cool-downs that are over", len(db))
	}
	db["cooldowns"+"rubbish"] = []byte("{")
	if open(t, db, nil); len(db) != 0 {
		t.Error("rubbish is kept")
	}
}

func TestWhatIsLeftIsForClients(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		remaining              string
		revalidate, background bool
	}{
		{"100;w=21600", true, true}, {"20;w=21600", true, true}, {"19;w=21600", true, false}, {"5;w=21600", true, false}, {"4;w=21600", false, false}, {"0;w=21600", false, false},
		{"nothing", true, true}, {"-1", true, true}, {"", true, true}, {" 19 , 100;w=60", true, false},
	} {
		d := open(t, nil, nil)
		d.Observe(hub, nobody, http.Header{"Ratelimit-Limit": {"100;w=21600"}, "Ratelimit-Remaining": {tc.remaining}})
		for purpose, want := range map[ratelimit.Purpose]bool{ratelimit.Client: true, ratelimit.Revalidation: tc.revalidate, ratelimit.Background: tc.background} {
			_, err := d.Enter(hub, nobody, ratelimit.Head, purpose)
			if got := err == nil; got != want || err != nil && !errors.Is(err, ratelimit.ErrReserved) {
				t.Errorf("%q left: purpose %d: %v, want it sent: %t", tc.remaining, purpose, err, want)
			}
		}
		if _, err := d.Enter(hub, robot, ratelimit.Head, ratelimit.Background); err != nil {
			t.Errorf("another account: %v", err)
		}
		d.pass(6 * time.Hour)
		if _, err := d.Enter(hub, nobody, ratelimit.Head, ratelimit.Background); err != nil {
			t.Errorf("%q left six hours ago: %v", tc.remaining, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	d := open(t, nil, registry)
	d.Observe(hub, nobody, http.Header{"Ratelimit-Limit": {"100;w=21600"}, "Ratelimit-Remaining": {"76;w=21600"}, "Docker-Ratelimit-Source": {"192.0.2.1"}})
	d.Observe(hub, robot, http.Header{"Ratelimit-Limit": {"200;w=21600"}, "Ratelimit-Remaining": {"150;w=21600"}})
	d.Observe(hub, ratelimit.Account{Class: "central", Name: "2"}, http.Header{"Ratelimit-Limit": {"200;w=21600"}, "Ratelimit-Remaining": {"20;w=21600"}, "Docker-Ratelimit-Source": {"a\"b\n" + strings.Repeat("x", 100)}})
	d.sent(true, quay, nobody, ratelimit.Blob, 429, "Retry-After", "30")
	long := "ab" + strings.Repeat("x", 62)
	for _, want := range []string{
		"rate_limit anonymous docker.io 192.0.2.1 100", "rate_limit_remaining anonymous docker.io 192.0.2.1 76",
		"rate_limit central docker.io " + long + " 200", "rate_limit_remaining central docker.io " + long + " 20",
		"rate_limit_cooldown_seconds anonymous blob quay.io 30",
	} {
		if got := series(t, registry); !slices.Contains(got, want) {
			t.Errorf("no series %q: %q", want, got)
		}
	}
	d.pass(7 * time.Hour)
	if got := series(t, registry); len(got) != 0 {
		t.Errorf("series %q after all of it is over", got)
	}
}

// series are what a registry of metrics has: name, values of the labels by the labels' names, value.
func series(t *testing.T, registry *prometheus.Registry) (all []string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			words := []string{family.GetName()}
			for _, label := range m.GetLabel() {
				words = append(words, label.GetValue())
			}
			all = append(all, strings.Join(append(words, fmt.Sprint(m.GetGauge().GetValue())), " "))
		}
	}
	return all
}

// Clients' own accounts come and go: neither they nor hosts that strangers name make the watch grow for ever.
func TestWhatIsKeptIsBounded(t *testing.T) {
	t.Parallel()
	d := open(t, nil, nil)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 2500 {
				a := ratelimit.Account{Class: "own", Name: fmt.Sprint(worker, " ", i)}
				d.ask(hub, a, ratelimit.Manifest, 429, "Retry-After", "30")
				d.Observe(hub, a, http.Header{"Ratelimit-Limit": {"100"}, "Ratelimit-Remaining": {"1"}})
			}
		})
	}
	wg.Wait()
	if n := d.Kept(); n > 2*4096 {
		t.Errorf("%d cool-downs and readings are kept", n)
	}
}

// A clock that is set back must not have a registry left alone for ever.
func TestAClockThatIsSetBack(t *testing.T) {
	t.Parallel()
	d := open(t, nil, nil)
	d.sent(true, hub, nobody, ratelimit.Manifest, 429)
	d.pass(-24 * time.Hour)
	d.sent(true, hub, nobody, ratelimit.Manifest, 429)
	d.sent(false, hub, nobody, ratelimit.Manifest, 200)
	d.pass(2 * time.Minute)
	d.sent(true, hub, nobody, ratelimit.Manifest, 200)
}
