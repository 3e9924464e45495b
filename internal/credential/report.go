package credential

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

// reporter says what becomes of sources: a failure once, and its end once.
type reporter struct {
	log      *slog.Logger
	failures *prometheus.CounterVec
}

func newReporter(log *slog.Logger, registerer prometheus.Registerer) *reporter {
	r := &reporter{log: log, failures: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "credential_failures_total",
		Help: "Readings of files and runs of helpers that gave no login, by kind of source.",
	}, []string{"source"})}
	for _, kind := range []string{"file", "helper"} {
		r.failures.WithLabelValues(kind)
	}
	if registerer != nil {
		registerer.MustRegister(r.failures)
	}
	return r
}

func (r *reporter) file(label string, now, before error)   { r.say("file", label, now, before) }
func (r *reporter) helper(label string, now, before error) { r.say("helper", label, now, before) }

// skipped says how much of a config.json is not understood.
func (r *reporter) skipped(label string, n int) {
	if n > 0 {
		r.log.Warn("config.json has logins that are not understood: each wants a host, and user:password in base64, a token or a helper", "source", label, "count", n)
	}
}

func (r *reporter) say(kind, label string, now, before error) {
	if now != nil {
		r.failures.WithLabelValues(kind).Inc()
	}
	switch {
	case now == nil && before != nil:
		r.log.Info("login is there again", "source", label)
	case now != nil && (before == nil || before.Error() != now.Error()):
		r.log.Warn("login cannot be had from its source", "source", label, "err", now)
	}
}
