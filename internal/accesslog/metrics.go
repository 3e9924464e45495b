package accesslog

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// other is the label of what is in no closed set.
const other = "other"

// maxLabelSets bounds the label sets, whatever Registries answers: past it new registries count as "other".
const maxLabelSets = 4096

// kinds and outcomes are the closed sets of these labels.
func kinds() []string {
	return []string{
		"ping", "blob", "manifest", "upload", "tags", "referrers", "catalog",
		KindV1, KindToken, KindRest, KindForward, KindTunnel, KindLocal,
	}
}

func outcomes() []string {
	return []string{"hit", "miss", "stale_hit", "revalidated", "coalesced", "bypass"}
}

// labels is one label set.
type labels struct{ registry, kind, outcome, status string }

// children are the metrics of one label set, resolved once.
type children struct {
	requests prometheus.Counter
	bytes    prometheus.Counter
	duration prometheus.Observer
}

type metrics struct {
	registries func(string) string
	kinds      []string
	outcomes   []string

	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	duration *prometheus.HistogramVec

	mu       sync.RWMutex // guards children
	children map[labels]*children
}

func newMetrics(cfg Config) *metrics {
	m := &metrics{
		registries: cfg.Registries,
		kinds:      kinds(),
		outcomes:   outcomes(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "requests_total",
			Help: "Requests of clients, by registry, kind, outcome and status class; a client that left counts as 4xx.",
		}, []string{"registry", "kind", "outcome", "status"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bytes_total",
			Help: "Bytes of bodies sent to clients, by registry, kind and outcome; of tunnels, both directions.",
		}, []string{"registry", "kind", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "request_duration_seconds",
			Help: "Time from a request to the end of its response, by kind and outcome.",
			// From a hit out of memory to a large layer over a slow link.
			Buckets: []float64{0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600},
		}, []string{"kind", "outcome"}),
		children: map[labels]*children{},
	}
	if m.registries == nil {
		m.registries = func(string) string { return other }
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(m.requests, m.bytes, m.duration)
	}
	return m
}

func (m *metrics) count(rec *Record) {
	c := m.resolve(labels{
		registry: m.registry(rec.Registry),
		kind:     member(m.kinds, rec.Kind),
		outcome:  member(m.outcomes, rec.Outcome),
		status:   class(rec.Status),
	})
	c.requests.Inc()
	c.bytes.Add(float64(max(rec.Bytes, 0)))
	c.duration.Observe(rec.Duration.Seconds())
}

func (m *metrics) registry(name string) string {
	if name == "" {
		return "none"
	}
	return m.registries(name)
}

func (m *metrics) resolve(l labels) *children {
	m.mu.RLock()
	c, known := m.children[l]
	m.mu.RUnlock()
	if known {
		return c
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.children) >= maxLabelSets {
		l.registry = other
	}
	if c, known := m.children[l]; known {
		return c
	}
	c = &children{
		requests: m.requests.WithLabelValues(l.registry, l.kind, l.outcome, l.status),
		bytes:    m.bytes.WithLabelValues(l.registry, l.kind, l.outcome),
		duration: m.duration.WithLabelValues(l.kind, l.outcome),
	}
	m.children[l] = c
	return c
}

// member is value if the set has it, "none" if there is no value, else "other".
func member(set []string, value string) string {
	if value == "" {
		return "none"
	}
	if slices.Contains(set, value) {
		return value
	}
	return other
}

// class is the status class, 2xx to 5xx.
func class(status int) string {
	if status < 100 || status > 599 {
		return other
	}
	return [...]string{1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}[status/100]
}
