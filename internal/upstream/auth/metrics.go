package auth

import (
	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/oci"
)

// metrics counts logins that are refused. Labels come from closed sets: a configured registry or "other"; login, or
// repository where the login is good for others.
type metrics struct {
	registry  func(oci.Registry) string
	refusals  *prometheus.CounterVec
	isRefused *prometheus.Desc
	refused   func(yield func(oci.Registry)) // names a registry for each login that it refuses at present
}

func newMetrics(cfg Config) *metrics {
	m := &metrics{
		registry: cfg.Registries,
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "upstream_login_refusals_total",
			Help: "Configured logins that a registry or its token service refused, or that could not be had from their source.",
		}, []string{"registry", "what"}),
		isRefused: prometheus.NewDesc("upstream_logins_refused", "Configured logins that a registry refuses at present.", []string{"registry"}, nil),
	}
	if m.registry == nil {
		m.registry = func(oci.Registry) string { return "other" }
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(m.refusals, m)
	}
	return m
}

func (m *metrics) refusal(reg oci.Registry, what string) {
	m.refusals.WithLabelValues(m.registry(reg), what).Inc()
}

// Describe implements [prometheus.Collector].
func (m *metrics) Describe(descs chan<- *prometheus.Desc) { descs <- m.isRefused }

// Collect implements [prometheus.Collector]: time alone ends a refusal, so it is counted when it is asked for.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	counts := map[string]int{}
	m.refused(func(reg oci.Registry) { counts[m.registry(reg)]++ })
	for registry, n := range counts {
		out <- prometheus.MustNewConstMetric(m.isRefused, prometheus.GaugeValue, float64(n), registry)
	}
}
