package fill

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/store"
)

// result is how a fill ended: a label of a metric.
type result string

const (
	found     result = "found"     // committed by another fill meanwhile; not counted
	committed result = "committed" // in the store
	unkept    result = "unkept"    // verified and given out, but the store could not take it
	mismatch  result = "mismatch"  // not what its name says
	noSpace   result = "no_space"  // the store could not go on taking it
	stopped   result = "stopped"   // nobody wants the rest
	refused   result = "refused"   // no source delivered the first byte
	failed    result = "failed"    // no source delivered the last one
	drained   result = "drained"   // the process stops
)

// Reason is why a blob is passed on without being kept: a label of a metric.
type Reason string

// The reasons.
const (
	// NoSpace: the store cannot take it, so each client costs a download.
	NoSpace Reason = "no_space"
	// Proof: a registry has to show that it holds a blob that is cached already.
	Proof Reason = "proof"
	// Own: it belongs to the client that asks.
	Own Reason = "own"
)

// metrics counts what a blob may cost beyond one download: resumes ask for what is missing alone, but restarts,
// passages for want of space and proofs ask for bytes again.
type metrics struct {
	started, received, resumes, restarts prometheus.Counter
	ends, passages                       *prometheus.CounterVec
}

// newMetrics registers the metrics. Several sets of fills may share a registry: they count together.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		started:  counter(reg, "fills_started_total", "Downloads of blobs into the store that were begun or taken up again."),
		received: counter(reg, "fill_received_bytes_total", "Bytes received into the store's staging."),
		resumes:  counter(reg, "fill_resumes_total", "Times that upstream broke off and was asked for the rest."),
		restarts: counter(reg, "fill_restarts_total", "Downloads begun anew because the last one was not what its name says."),
		ends: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fills_finished_total", Help: "Downloads of blobs into the store that have ended, by result.",
		}, []string{"result"})),
		passages: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fill_passages_total", Help: "Downloads of blobs for one client that were not kept, by reason.",
		}, []string{"reason"})),
	}
	for _, r := range []result{committed, unkept, mismatch, noSpace, stopped, refused, failed, drained} {
		m.ends.WithLabelValues(string(r))
	}
	for _, r := range []Reason{NoSpace, Proof, Own} {
		m.passages.WithLabelValues(string(r))
	}
	return m
}

func counter(reg prometheus.Registerer, name, help string) prometheus.Counter {
	return register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
}

// register returns the collector of that name, which is c if there was none.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	err := reg.Register(c)
	if known, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		return known.ExistingCollector.(C)
	} else if err != nil {
		panic(err) // two different metrics of one name
	}
	return c
}

func (m *metrics) finished(r result) {
	if r != found {
		m.ends.WithLabelValues(string(r)).Inc()
	}
}

func (m *metrics) passed(why Reason) { m.passages.WithLabelValues(string(why)).Inc() }

// resultOf is the result of a fill that ended with err.
func resultOf(err error) result {
	_, wrong := errors.AsType[*store.DigestError](err)
	switch {
	case wrong:
		return mismatch
	case errors.Is(err, store.ErrNoSpace):
		return noSpace
	case errors.Is(err, errAbandoned):
		return stopped
	case errors.Is(err, errNoSource):
		return refused
	case errors.Is(err, ErrDraining):
		return drained
	}
	return failed
}
