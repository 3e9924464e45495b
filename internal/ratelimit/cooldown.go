package ratelimit

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"container-registry-proxy/internal/oci"
)

const (
	// firstStep is how long a registry is left alone that does not say for how long, and lastStep how long at most.
	firstStep = time.Minute
	lastStep  = 15 * time.Minute
	// maxRetryAfter bounds what a registry may ask for. Docker Hub's limits are for six hours.
	maxRetryAfter = 6 * time.Hour
	// probeTimeout is after how long a probe that has not come back no longer keeps others from probing.
	probeTimeout = time.Minute
	// maxBody bounds the body of a 429 that is kept: error documents have a few hundred bytes.
	maxBody = 4 << 10
)

// Answer is what a registry answered, as far as it concerns limits.
type Answer struct {
	Status int         `json:"status"`
	Header http.Header `json:"header"`
	Body   []byte      `json:"body,omitempty"`
}

// kept is the part of an answer that is given to others meanwhile.
func (a Answer) kept() Answer {
	out := Answer{Status: a.Status, Header: http.Header{}}
	for _, name := range []string{"Content-Type", "Warning", "Ratelimit-Limit", "Ratelimit-Remaining", "Docker-Ratelimit-Source"} {
		if values := a.Header.Values(name); len(values) > 0 {
			out.Header[name] = values
		}
	}
	if len(a.Body) <= maxBody {
		out.Body = a.Body
	}
	return out
}

// retryAfter is how long the answer asks to be left alone, in seconds or as a date (RFC 9110, section 10.2.3), within
// reason; 0 where it does not say.
func (a Answer) retryAfter(now time.Time) time.Duration {
	value := a.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(max(time.Duration(seconds)*time.Second, time.Second), maxRetryAfter)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), time.Second), maxRetryAfter)
	}
	return 0
}

// CoolingError says that a registry is left alone, and what it said when that began.
type CoolingError struct {
	Registry oci.Registry
	Answer   Answer
	Left     time.Duration
}

func (e *CoolingError) Error() string {
	return fmt.Sprintf("registry %s has had enough for now: it is left alone for another %s", e.Registry, e.Left.Round(time.Second))
}

// Header is that of the registry's answer, with the time that is left of the cool-down.
func (e *CoolingError) Header() http.Header {
	header := e.Answer.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	seconds := int64((e.Left + time.Second - 1) / time.Second)
	header.Set("Retry-After", strconv.FormatInt(max(seconds, 1), 10))
	return header
}

// cooldown is a time in which a registry is left alone.
type cooldown struct {
	Answer  Answer        `json:"answer"`
	From    time.Time     `json:"from"`
	Until   time.Time     `json:"until"`
	Step    time.Duration `json:"step"`
	probing time.Time     // since when a request finds out whether it is over; zero if none does
}

// left is how long no request may be sent; 0 means that one may, to find out. A clock that was set back ends it.
func (c *cooldown) left(now time.Time) time.Duration {
	switch {
	case now.Before(c.From):
		return 0
	case now.Before(c.Until):
		return c.Until.Sub(now)
	case !c.probing.IsZero() && now.Sub(c.probing) < probeTimeout:
		return time.Second
	}
	return 0
}

// limited begins a cool-down, or the next step of one whose probe was refused. It is called under mu.
func (w *Watch) limited(t *Turn, a Answer) {
	now := w.cfg.Now()
	w.extend(t, t.key, a, now)
	for k := range w.cooling {
		second := k.registry == t.key.registry && k.account == t.key.account && k.kind != t.key.kind && k.kind != whole && k.kind != Token
		if second && t.key.kind != Token && w.cooling[k].left(now) > 0 {
			w.extend(t, key{registry: t.key.registry, kind: whole}, a, now)
			break
		}
	}
	for _, k := range t.probes { // what was refused is the probe of the whole, too
		if k != t.key {
			w.extend(t, k, a, now)
		}
	}
}

// extend has k left alone. Requests that were on their way when it began change little: they have one step, not one each.
func (w *Watch) extend(t *Turn, k key, a Answer, now time.Time) {
	c := w.cooling[k]
	asked := a.retryAfter(now)
	switch {
	case c == nil:
		w.makeRoom(now)
		c = &cooldown{From: now, Step: firstStep}
		w.cooling[k] = c
	case !now.Before(c.From) && (t.began.Before(c.From) || now.Before(c.Until)): // known, or on its way meanwhile
		if until := now.Add(asked); asked == 0 || !until.After(c.Until) {
			return
		}
	default:
		c.From, c.Step = now, min(2*c.Step, lastStep)
	}
	c.Answer, c.probing = a.kept(), time.Time{}
	c.Until = now.Add(c.Step)
	if asked > 0 {
		c.Until = now.Add(asked)
	}
	w.cfg.Log.Warn("registry limits requests: it is left alone for a while", "registry", string(k.registry), "credential", k.account.label(),
		"kind", string(k.kind), "for", c.Until.Sub(now).Round(time.Second).String(), "source", printable(a.Header.Get("Docker-Ratelimit-Source")))
	w.remember(k, c)
}

// forget ends a cool-down.
func (w *Watch) forget(k key) {
	if _, ok := w.cooling[k]; !ok {
		return
	}
	delete(w.cooling, k)
	if w.cfg.DB != nil {
		w.cfg.DB.Delete(bucket, k.String())
	}
	w.cfg.Log.Info("registry takes requests again", "registry", string(k.registry), "credential", k.account.label(), "kind", string(k.kind))
}

// makeRoom drops cool-downs that are over, and any others if that is not enough: an eighth of all, so that it is not
// called again soon.
func (w *Watch) makeRoom(now time.Time) {
	if len(w.cooling) < maxWatched {
		return
	}
	for k, c := range w.cooling {
		if c.left(now) == 0 {
			w.forget(k)
		}
	}
	for k := range w.cooling {
		if len(w.cooling) < maxWatched*7/8 {
			return
		}
		w.forget(k)
	}
}
