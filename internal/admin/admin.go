// Package admin is the operator's listener: metrics, readiness and profiles. Its invariant: nothing on it changes the
// proxy, and a page that a browser has open elsewhere cannot read it: the Host of a request has to be one that the
// operator uses, so a name that a stranger points at this machine gets nowhere.
package admin

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config has what the listener shows. The zero value shows no metrics and is always ready.
type Config struct {
	// Gatherer has the metrics; nil means there are none.
	Gatherer prometheus.Gatherer
	// Ready says why the proxy should get no clients, or nothing; nil means always ready.
	Ready func() error
	// Degraded says what the proxy does without at present, although it serves its clients; nil or empty means nothing.
	Degraded func() string
	// Listen is the address of the listener (ADMIN_LISTEN); requests that name its host are answered.
	Listen string
	// Hosts are further host names, without ports, under which the operator reaches the listener.
	Hosts []string
}

// New returns the handler of the operator's listener.
func New(cfg Config) http.Handler {
	if cfg.Gatherer == nil {
		cfg.Gatherer = prometheus.NewRegistry()
	}
	if cfg.Ready == nil {
		cfg.Ready = func() error { return nil }
	}
	if cfg.Degraded == nil {
		cfg.Degraded = func() string { return "" }
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeState(w, "", nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { writeState(w, cfg.Degraded(), cfg.Ready()) })
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return guard(cfg, http.NewCrossOriginProtection().Handler(mux))
}

// writeState answers {"status":"ok"}, "degraded" and why, or 503 and the reason.
func writeState(w http.ResponseWriter, degraded string, problem error) {
	state := struct {
		Status string `json:"status"`
		Reason string `json:"reason,omitempty"`
	}{Status: "ok"}
	status := http.StatusOK
	switch {
	case problem != nil:
		state.Status, state.Reason = "unavailable", problem.Error()
		status = http.StatusServiceUnavailable
	case degraded != "":
		state.Status, state.Reason = "degraded", degraded
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(state) // the client may have left; there is nothing more to say
}

// guard answers requests for known hosts alone: a browser sends the name that the page was loaded from, so a page of a
// name that was re-pointed at this machine (DNS rebinding) is told nothing.
func guard(cfg Config, next http.Handler) http.Handler {
	known := map[string]bool{"localhost": true}
	listen, _, err := net.SplitHostPort(cfg.Listen)
	for _, host := range append([]string{listen}, cfg.Hosts...) {
		known[canonical(host)] = true
	}
	delete(known, "") // of ADMIN_LISTEN=":3129": any address, but no name
	anyAddress := err == nil && (listen == "" || net.ParseIP(listen).IsUnspecified())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		host := hostOf(r)
		ip := net.ParseIP(host)
		// An address cannot be re-pointed: the browser dialled it because the page's author, or the operator, wrote it.
		if !known[host] && !(ip != nil && (anyAddress || ip.IsLoopback())) {
			http.Error(w, "host is not one of the operator's listener: use its address, or localhost", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostOf is the host that the request names, without port.
func hostOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	return canonical(host)
}

func canonical(host string) string {
	return strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
}
