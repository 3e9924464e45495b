package upstream

import (
	"context"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// Limits bound what one host is asked. The zero value means the defaults.
type Limits struct {
	// Concurrent is how many requests may be in progress at once, each from its beginning to the end of its body; 0
	// means 64, less than 0 as many as there are. The others wait.
	Concurrent int
	// PerSecond is how many requests may begin in a second, in the long run; 0 means as many as there are. A burst of
	// as many as fit into two seconds, and at least ten, passes at once.
	PerSecond float64
}

const (
	// defaultConcurrent is generous for a pull, which opens a handful of connections, and for a registry.
	defaultConcurrent = 64
	// maxHosts bounds the hosts that are remembered while nobody asks them: redirects lead to as many as they like.
	maxHosts = 1024
	// lend is after how long a slot whose body nobody reads is given to others: its client is slow, not the registry,
	// and slow clients must not keep everybody else from a registry.
	lend = time.Second
)

// hosts keeps what is asked of each host within its limits.
type hosts struct {
	limits func(authority string) Limits

	mu  sync.Mutex // guards all, and the users of each host
	all map[string]*host
}

// host is what is going on with one origin.
type host struct {
	users  int                 // requests that wait for it or have a slot
	slots  *semaphore.Weighted // nil: no bound
	pace   *rate.Limiter       // nil: no bound
	budget budget
}

func newHosts(limits func(string) Limits) *hosts {
	if limits == nil {
		limits = func(string) Limits { return Limits{} }
	}
	return &hosts{limits: limits, all: map[string]*host{}}
}

// use returns the host of u, which is not forgotten until done is called.
func (h *hosts) use(u *url.URL) *host {
	h.mu.Lock()
	defer h.mu.Unlock()
	name := origin(u)
	at := h.all[name]
	if at == nil {
		h.forgetIdle()
		at = newHost(h.limits(authority(u)))
		h.all[name] = at
	}
	at.users++
	return at
}

func (h *hosts) done(at *host) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at.users--
}

// forgetIdle makes room for another host. It is called under mu.
func (h *hosts) forgetIdle() {
	if len(h.all) < maxHosts {
		return
	}
	for name, at := range h.all {
		if at.users == 0 {
			delete(h.all, name)
		}
	}
}

func newHost(l Limits) *host {
	at := &host{budget: newBudget()}
	if l.Concurrent == 0 {
		l.Concurrent = defaultConcurrent
	}
	if l.Concurrent > 0 {
		at.slots = semaphore.NewWeighted(int64(l.Concurrent))
	}
	if l.PerSecond > 0 {
		at.pace = rate.NewLimiter(rate.Limit(l.PerSecond), max(10, int(2*l.PerSecond)))
	}
	return at
}

// errNoTurn says that a request would have had to wait longer than its context lasts.
const errNoTurn = safeError("asked as much as it may be")

// enter waits until one more request to u may begin, and reports whether it had to wait. The slot must be left.
func (h *hosts) enter(ctx context.Context, u *url.URL) (_ *slot, waited bool, err error) {
	at := h.use(u)
	s := &slot{hosts: h, host: at}
	if at.slots != nil {
		if waited = !at.slots.TryAcquire(1); waited {
			err = at.slots.Acquire(ctx, 1)
		}
		s.held = err == nil
	}
	if err == nil && at.pace != nil && !at.pace.Allow() {
		waited = true
		err = at.pace.Wait(ctx)
	}
	if err != nil {
		s.leave()
		return nil, waited, errNoTurn // or ctx has ended, which the caller looks at first
	}
	return s, waited, nil
}

// ask takes note of a request to u that is no retry.
func (h *hosts) ask(u *url.URL) {
	at := h.use(u)
	defer h.done(at)
	at.budget.asked()
}

// retry reports whether one more retry of a request to u is within the budget, and takes it.
func (h *hosts) retry(u *url.URL) bool {
	at := h.use(u)
	defer h.done(at)
	return at.budget.retry()
}

// slot is a request's share of what its host may be asked at once.
type slot struct {
	hosts *hosts
	host  *host

	mu   sync.Mutex // guards the fields that follow
	held bool
	left bool
}

// rest gives the slot to others while the body is not read.
func (s *slot) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release()
}

// resume takes the slot back, if there is one: a body that is read again does not wait.
func (s *slot) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.held && !s.left && s.host.slots != nil {
		s.held = s.host.slots.TryAcquire(1)
	}
}

// leave ends the request. It may be called again.
func (s *slot) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return
	}
	s.left = true
	s.release()
	s.hosts.done(s.host)
}

// release is called under mu.
func (s *slot) release() {
	if s.held {
		s.held = false
		s.host.slots.Release(1)
	}
}
