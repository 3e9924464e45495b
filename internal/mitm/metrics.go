package mitm

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// newMetrics registers the authority's end, which does not move, and returns the counter of leaves.
func newMetrics(reg prometheus.Registerer, expires time.Time) prometheus.Counter {
	expiry := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "ca_expiry_timestamp_seconds",
		Help: "When the certificate authority expires, or the first certificate above it, as a Unix time.",
	})
	expiry.Set(float64(expires.Unix()))
	minted := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "leaves_minted_total",
		Help: "Certificates minted for intercepted hosts.",
	})
	if reg != nil {
		reg.MustRegister(expiry, minted)
	}
	return minted
}
