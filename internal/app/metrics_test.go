package app_test

import (
	"strconv"
	"strings"
	"testing"
)

// prefix begins the name of every metric of ours.
const prefix = "container_registry_proxy_"

// sample is a line of /metrics.
type sample struct {
	name   string
	labels map[string]string
	value  float64
}

// samples parses what /metrics answered, in the text format of Prometheus.
func samples(t testing.TB, text string) []sample {
	t.Helper()
	var all []sample
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			t.Fatalf("line of /metrics %q: %v", line, err)
		}
		s := sample{name: line[:at], labels: map[string]string{}, value: value}
		if name, rest, ok := strings.Cut(line[:at], "{"); ok {
			s.name = name
			for _, pair := range strings.Split(strings.TrimSuffix(rest, "}"), `",`) {
				key, value, _ := strings.Cut(pair, `="`)
				s.labels[key] = strings.TrimSuffix(value, `"`)
			}
		}
		all = append(all, s)
	}
	return all
}

// metric is the sum over the series of a metric of ours that have all these labels, names and values by turns.
func (h *house) metric(name string, labels ...string) float64 {
	h.t.Helper()
	var sum float64
series:
	for _, s := range samples(h.t, string(h.operator("/metrics").expect(h.t, 200).body)) {
		if s.name != prefix+name {
			continue
		}
		for i := 0; i+1 < len(labels); i += 2 {
			if s.labels[labels[i]] != labels[i+1] {
				continue series
			}
		}
		sum += s.value
	}
	return sum
}
