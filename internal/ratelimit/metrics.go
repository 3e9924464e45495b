package ratelimit

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	limitDesc = prometheus.NewDesc("rate_limit",
		"Pulls that a registry allows in a window, by its own word, for the account that has the least left.", []string{"registry", "credential", "source"}, nil)
	remainingDesc = prometheus.NewDesc("rate_limit_remaining",
		"What is left of that limit.", []string{"registry", "credential", "source"}, nil)
	coolingDesc = prometheus.NewDesc("rate_limit_cooldown_seconds",
		"For how long a registry is left alone after it answered 429, by the kind of request.", []string{"registry", "credential", "kind"}, nil)
)

// collector makes the metrics when they are asked for: each registry and class of accounts has one reading, that of
// which the least is left.
type collector struct{ watch *Watch }

func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{limitDesc, remainingDesc, coolingDesc} {
		out <- d
	}
}

type series struct{ registry, credential, kind string }

func (c collector) Collect(out chan<- prometheus.Metric) {
	readings, cooling := c.watch.snapshot()
	for s, r := range readings {
		out <- prometheus.MustNewConstMetric(limitDesc, prometheus.GaugeValue, float64(r.Limit), s.registry, s.credential, r.Source)
		out <- prometheus.MustNewConstMetric(remainingDesc, prometheus.GaugeValue, float64(r.Remaining), s.registry, s.credential, r.Source)
	}
	for s, left := range cooling {
		out <- prometheus.MustNewConstMetric(coolingDesc, prometheus.GaugeValue, left.Seconds(), s.registry, s.credential, s.kind)
	}
}

func (w *Watch) snapshot() (map[series]Reading, map[series]time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.cfg.Now()
	readings, cooling := map[series]Reading{}, map[series]time.Duration{}
	for h, r := range w.readings {
		s := series{registry: w.cfg.Registries(h.registry), credential: h.account.label()}
		if tightest, ok := readings[s]; r.current(now) && (!ok || r.share() < tightest.share()) {
			readings[s] = r
		}
	}
	for k, c := range w.cooling {
		s := series{w.cfg.Registries(k.registry), k.account.label(), string(k.kind)}
		if left := c.left(now); left > 0 {
			cooling[s] = max(cooling[s], left)
		}
	}
	return readings, cooling
}
