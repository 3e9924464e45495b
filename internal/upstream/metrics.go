package upstream

import (
	"net/http"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/oci"
)

// metrics counts what upstream is asked and gives. Labels come from closed sets: a configured registry or "other"; get,
// head, write or token; 2xx to 5xx or error.
type metrics struct {
	registry func(oci.Registry) string
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	retries  *prometheus.CounterVec
	waits    *prometheus.CounterVec

	// children holds the counters of each label set, resolved once.
	children sync.Map // metricKey → prometheus.Counter
}

// metricKey is the labels of a counter; of the bytes' one, the registry alone.
type metricKey struct{ registry, kind, status string }

func newMetrics(cfg Config) *metrics {
	m := &metrics{
		registry: cfg.Registries,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "upstream_requests_total",
			Help: "Requests to registries, each redirect and token request counted, by status class of the answer.",
		}, []string{"registry", "kind", "status"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "upstream_received_bytes_total",
			Help: "Bytes of bodies received from registries and what they redirect to.",
		}, []string{"registry"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "upstream_retries_total",
			Help: "Requests to registries that were made again: the connection broke, or what a registry had redirected to had expired.",
		}, []string{"registry"}),
		waits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "upstream_waits_total",
			Help: "Requests to registries that waited because their host is asked as much as it may be.",
		}, []string{"registry"}),
	}
	if m.registry == nil {
		m.registry = func(oci.Registry) string { return "other" }
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(m.requests, m.bytes, m.retries, m.waits)
	}
	return m
}

// asked counts one request; status 0 means that no answer came.
func (m *metrics) asked(reg oci.Registry, kind string, status int) {
	class := "error"
	if status >= 100 && status < 600 {
		class = strconv.Itoa(status/100) + "xx"
	}
	m.child(metricKey{m.registry(reg), kind, class}).Inc()
}

func (m *metrics) retried(reg oci.Registry) { m.retries.WithLabelValues(m.registry(reg)).Inc() }
func (m *metrics) waited(reg oci.Registry)  { m.waits.WithLabelValues(m.registry(reg)).Inc() }

// received returns what counts the bytes of a registry's bodies.
func (m *metrics) received(reg oci.Registry) func(int) {
	counter := m.child(metricKey{registry: m.registry(reg)})
	return func(n int) { counter.Add(float64(n)) }
}

func (m *metrics) child(key metricKey) prometheus.Counter {
	if c, ok := m.children.Load(key); ok {
		return c.(prometheus.Counter)
	}
	child := m.bytes.WithLabelValues(key.registry)
	if key.kind != "" {
		child = m.requests.WithLabelValues(key.registry, key.kind, key.status)
	}
	m.children.Store(key, child)
	return child
}

// kindOf is the kind label of a method.
func kindOf(method string) string {
	switch method {
	case http.MethodGet:
		return "get"
	case http.MethodHead:
		return "head"
	}
	return "write"
}
