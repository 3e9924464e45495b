package cache

import "github.com/prometheus/client_golang/prometheus"

// The reasons for which bytes are downloaded that another download brings, or has brought.
const (
	reasonUnproven = "unproven" // the registry has yet to prove that it holds the digest
	reasonNoSpace  = "no_space" // nothing can be stored
	reasonDamaged  = "damaged"  // what was stored had changed
)

// metrics count what package cache alone knows. A nil *metrics counts nothing.
type metrics struct {
	extra map[string]prometheus.Counter // by reason
}

func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		return nil
	}
	extra := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "extra_downloads_total",
		Help: "Downloads of bytes that another download brought too, by reason.",
	}, []string{"reason"})
	reg.MustRegister(extra)
	m := &metrics{extra: map[string]prometheus.Counter{}}
	for _, reason := range []string{reasonUnproven, reasonNoSpace, reasonDamaged} {
		m.extra[reason] = extra.WithLabelValues(reason)
	}
	return m
}

func (m *metrics) extraDownload(reason string) {
	if m != nil {
		m.extra[reason].Inc()
	}
}
