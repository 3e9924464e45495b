package proxy

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	connections       *prometheus.CounterVec // by what became of them
	tunnels           prometheus.Gauge
	tunnelBytes       prometheus.Counter
	handshakeFailures prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		connections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "connections_total", Help: "What clients asked for: intercept and tunnel (CONNECT), mirror (the registry API of this port), plain and forward (a registry and other hosts, in plain HTTP).",
		}, []string{"kind"}),
		tunnels: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tunnels", Help: "Tunnels that are open.",
		}),
		tunnelBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tunnel_bytes_total", Help: "Bytes that tunnels have carried, in both directions.",
		}),
		handshakeFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "handshake_failures_total", Help: "TLS handshakes on intercepted connections that clients broke off; many mean clients that do not trust the authority.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.connections, m.tunnels, m.tunnelBytes, m.handshakeFailures)
	}
	return m
}
