package accesslog

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	log, _, reg := newLog()
	for range 3 {
		log.Emit(t.Context(), &Record{Registry: "docker.io", Kind: "blob", Outcome: "hit", Status: 206, Bytes: 10})
	}
	log.Emit(t.Context(), &Record{Registry: "strange.example.com", Kind: "weird", Outcome: "odd", Status: 999, Bytes: 1})
	log.Emit(t.Context(), &Record{Kind: KindLocal, Status: 499})
	got := series(t, reg)
	want := map[string]float64{
		`kind="blob" outcome="hit" registry="docker.io" status="2xx"`:  3,
		`kind="local" outcome="none" registry="none" status="4xx"`:     1,
		`kind="other" outcome="other" registry="other" status="other"`: 1,
	}
	if diff := cmp.Diff(want, got["requests_total"]); diff != "" {
		t.Errorf("requests_total (-want +got):\n%s", diff)
	}
	want = map[string]float64{
		`kind="blob" outcome="hit" registry="docker.io"`: 30,
		`kind="local" outcome="none" registry="none"`:    0,
		`kind="other" outcome="other" registry="other"`:  1,
	}
	if diff := cmp.Diff(want, got["bytes_total"]); diff != "" {
		t.Errorf("bytes_total (-want +got):\n%s", diff)
	}
	want = map[string]float64{`kind="blob" outcome="hit"`: 3, `kind="local" outcome="none"`: 1, `kind="other" outcome="other"`: 1}
	if diff := cmp.Diff(want, got["request_duration_seconds"]); diff != "" {
		t.Errorf("counts of request_duration_seconds (-want +got):\n%s", diff)
	}
}

// series has the value of every series of reg, by metric and labels; of a histogram, its count.
func series(t *testing.T, reg *prometheus.Registry) map[string]map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string]float64{}
	for _, family := range families {
		all[family.GetName()] = map[string]float64{}
		for _, metric := range family.GetMetric() {
			var names []string
			for _, label := range metric.GetLabel() {
				names = append(names, fmt.Sprintf("%s=%q", label.GetName(), label.GetValue()))
			}
			value := metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			all[family.GetName()][strings.Join(names, " ")] = value
		}
	}
	return all
}

// Strangers choose methods, hosts, repositories and tags; none may become a series, even where Registries lets any name
// through.
func TestStrangersMakeNoSeries(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	log := New(Config{Registerer: reg, Registries: func(r string) string { return r }})
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 5000 {
				stranger := fmt.Sprint(worker, "-", i)
				log.Emit(t.Context(), &Record{
					Method: stranger, Registry: stranger, Repository: stranger, Reference: stranger,
					Kind: "kind" + stranger, Outcome: "outcome" + stranger, Client: stranger, Status: i,
				})
			}
		})
	}
	wg.Wait()
	if n := len(series(t, reg)["requests_total"]); n > maxLabelSets+10 {
		t.Errorf("%d series of requests_total, want at most about %d", n, maxLabelSets)
	}
	if n := len(log.metrics.children); n > maxLabelSets+10 {
		t.Errorf("%d cached label sets, want at most about %d", n, maxLabelSets)
	}
}

func BenchmarkHandler(b *testing.B) {
	const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := From(r.Context())
		rec.Kind, rec.Registry, rec.Repository, rec.Reference, rec.Digest = "blob", "docker.io", "library/alpine", digest, digest
		rec.Outcome, rec.CacheType = "hit", "blob-by-digest"
		w.WriteHeader(http.StatusOK)
	})
	for name, cfg := range map[string]Config{
		"json":  {Log: slog.New(slog.NewJSONHandler(io.Discard, nil)), Registerer: prometheus.NewRegistry()},
		"quiet": {Registerer: prometheus.NewRegistry()},
	} {
		b.Run(name, func(b *testing.B) {
			h := New(cfg).Handler(next)
			r := httptest.NewRequest(http.MethodGet, "/v2/library/alpine/blobs/"+digest, nil)
			w := discardWriter{}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
		})
	}
}

// What a request costs in allocations is fixed: it does not grow with what is sent.
func TestAllocationsAreFew(t *testing.T) {
	log := New(Config{Log: slog.New(slog.NewJSONHandler(io.Discard, nil))})
	chunk := make([]byte, 1<<10)
	h := func(chunks int) http.Handler {
		return log.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			From(r.Context()).Kind = "blob"
			for range chunks {
				_, _ = w.Write(chunk)
			}
		}))
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	few := testing.AllocsPerRun(200, func() { h(1).ServeHTTP(discardWriter{}, r) })
	many := testing.AllocsPerRun(200, func() { h(1000).ServeHTTP(discardWriter{}, r) })
	if few > 15 || many > few+1 {
		t.Errorf("%v allocations for one write, %v for a thousand; want at most 15, and the same", few, many)
	}
}

type discardWriter struct{}

func (discardWriter) Header() http.Header         { return http.Header{} }
func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (discardWriter) WriteHeader(int)             {}
