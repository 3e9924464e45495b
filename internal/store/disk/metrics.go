package disk

import "github.com/prometheus/client_golang/prometheus"

// Why a blob was evicted, the values of a label.
const (
	reasonLimit     = "limit"      // the store's own limit
	reasonFreeSpace = "free_space" // the space reserved for others on the file system, or its inodes
	reasonInactive  = "inactive"   // nobody asked for it for long
)

// metrics are the counters of a store; its gauges are read from it when they are collected.
type metrics struct {
	evictedBlobs map[string]prometheus.Counter
	evictedBytes map[string]prometheus.Counter
	damaged      prometheus.Counter
	checkpoints  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Store) *metrics {
	blobs := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "store_evicted_blobs_total", Help: "Blobs evicted, by reason.",
	}, []string{"reason"})
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "store_evicted_bytes_total", Help: "Bytes of blobs evicted, by reason.",
	}, []string{"reason"})
	m := &metrics{
		evictedBlobs: map[string]prometheus.Counter{}, evictedBytes: map[string]prometheus.Counter{},
		damaged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "store_damaged_total", Help: "Blobs dropped because their bytes were no longer those committed.",
		}),
		checkpoints: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "store_checkpoints_total", Help: "Times that unfinished downloads were made safe from a crash.",
		}),
	}
	for _, reason := range []string{reasonLimit, reasonFreeSpace, reasonInactive} {
		m.evictedBlobs[reason] = blobs.WithLabelValues(reason)
		m.evictedBytes[reason] = bytes.WithLabelValues(reason)
	}
	if reg != nil {
		reg.MustRegister(blobs, bytes, m.damaged, m.checkpoints)
		reg.MustRegister(gauges(s)...)
	}
	return m
}

func gauges(s *Store) []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	return []prometheus.Collector{
		gauge("store_bytes", "Space that committed blobs take on the disk.", func() float64 { return float64(s.Usage().Bytes) }),
		gauge("store_limit_bytes", "The limit of the cache directory.", func() float64 { return float64(s.Usage().Limit) }),
		gauge("store_staged_bytes", "Space that unfinished downloads take on the disk.", func() float64 { return float64(s.Usage().Staged) }),
		gauge("store_blobs", "Committed blobs.", func() float64 { return float64(s.Usage().Blobs) }),
		gauge("store_degraded", "1 while the store does not keep what it should, 0 otherwise.", func() float64 {
			if s.Usage().Degraded != "" {
				return 1
			}
			return 0
		}),
	}
}

func (m *metrics) evicted(reason string, bytes int64) {
	m.evictedBlobs[reason].Inc()
	m.evictedBytes[reason].Add(float64(bytes))
}
