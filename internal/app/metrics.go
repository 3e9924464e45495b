package app

import "github.com/prometheus/client_golang/prometheus"

// unverified says what is easily forgotten once it works.
func unverified(verify bool) prometheus.Collector {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "upstream_unverified",
		Help: "1 while the certificates of the configured registries go unverified (VERIFY_SSL=false), 0 otherwise.",
	})
	if !verify {
		gauge.Set(1)
	}
	return gauge
}
