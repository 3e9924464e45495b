package ratelimit

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"container-registry-proxy/internal/oci"
)

// holder is whose limit it is.
type holder struct {
	registry oci.Registry
	account  Account
}

// Reading is what a registry said is left of a limit: "RateLimit-Limit: 100;w=21600" and "RateLimit-Remaining: 76;w=21600".
type Reading struct {
	Limit, Remaining int64
	Window           time.Duration // 0 where it does not say
	Source           string        // whom the registry counts, by its word (Docker-RateLimit-Source); may be empty
	At               time.Time
}

// believedFor is how long a reading counts that names no window.
const believedFor = time.Hour

// share is the part of the limit that is left.
func (r Reading) share() float64 { return float64(r.Remaining) / float64(r.Limit) }

// current reports whether the window in which the reading was taken may still run.
func (r Reading) current(now time.Time) bool {
	window := r.Window
	if window == 0 {
		window = believedFor
	}
	age := now.Sub(r.At)
	return age >= 0 && age < window
}

// Observe takes note of what an answer of the registry itself says is left.
func (w *Watch) Observe(reg oci.Registry, account Account, header http.Header) {
	limit, window, ok := quota(header.Get("Ratelimit-Limit"))
	remaining, other, ok2 := quota(header.Get("Ratelimit-Remaining"))
	if !ok || !ok2 || limit == 0 {
		return
	}
	r := Reading{Limit: limit, Remaining: min(remaining, limit), Window: max(window, other), Source: printable(header.Get("Docker-Ratelimit-Source")), At: w.cfg.Now()}
	w.mu.Lock()
	defer w.mu.Unlock()
	h := holder{reg, account}
	if _, known := w.readings[h]; !known && len(w.readings) >= maxWatched {
		clear(w.readings) // to forget costs a request too many
	}
	w.readings[h] = r
}

// reserved reports whether what is left is for others. It is called under mu.
func (w *Watch) reserved(h holder, purpose Purpose, now time.Time) bool {
	r, ok := w.readings[h]
	if !ok || purpose == Client || !r.current(now) {
		return false
	}
	if purpose == Background {
		return r.share() < w.cfg.Reserve
	}
	return r.share() < min(scarce, w.cfg.Reserve)
}

// quota reads the first number of a header, and its window in seconds: "100;w=21600", "100, 100;w=60", "100".
func quota(value string) (n int64, window time.Duration, ok bool) {
	first, _, _ := strings.Cut(value, ",")
	number, parameters, _ := strings.Cut(first, ";")
	const most = 1 << 40 // no limit, and safe to calculate with
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, 0, false
	}
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, text, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		if seconds, err := strconv.ParseUint(text, 10, 31); err == nil && name == "w" {
			window = time.Duration(seconds) * time.Second
		}
	}
	return n, window, true
}

// printable cuts a stranger's word to what may stand in a log and a metric.
func printable(s string) string {
	const most = 64
	keep := func(r rune) rune {
		if r <= ' ' || r > '~' || r == '"' || r == '\\' {
			return -1
		}
		return r
	}
	s = strings.Map(keep, s)
	return s[:min(len(s), most)]
}
