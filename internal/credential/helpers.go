package credential

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// keepFor is how long a helper's answer is good without asking. Short-lived logins live an hour or more, and one that
	// is refused is asked for again at once.
	keepFor = 5 * time.Minute
	// coolDown is how long a helper that failed, or had nothing, is not asked the same again.
	coolDown = 30 * time.Second
	// renewEvery bounds how often a helper is asked again for logins that are refused. The first time it is asked at once,
	// however young its answer is: a login may be replaced at any moment.
	renewEvery = 10 * time.Second
	// maxRuns bounds the helpers that run at one time: some are interpreters of 100 MiB.
	maxRuns = 4
	// maxAnswers bounds the answers kept. With a credential store there is one for every registry that a client names.
	maxAnswers = 1024
)

// helpers asks helpers, and keeps their answers for a while.
type helpers struct {
	environ []string
	timeout time.Duration
	report  *reporter
	slots   chan struct{}
	flight  singleflight.Group

	mu      sync.Mutex // guards answers. It is never held across I/O.
	answers map[helperKey]answer
}

type helperKey struct{ program, server string }

// answer is what a helper said last. A login outlives failures that follow it.
type answer struct {
	login Login
	held  bool  // there is a login
	err   error // of the last run
	asked time.Time
	// renewed is when it was last asked because its login was refused.
	renewed time.Time
}

func newHelpers(cfg Config, report *reporter) *helpers {
	h := &helpers{timeout: cfg.HelperTimeout, report: report, slots: make(chan struct{}, maxRuns), answers: map[helperKey]answer{}}
	for _, variable := range cfg.Environ {
		if !strings.HasPrefix(variable, "AUTH_REGISTR") { // other registries' logins are no business of a helper's
			h.environ = append(h.environ, variable)
		}
	}
	if h.timeout <= 0 {
		h.timeout = helperTimeout
	}
	return h
}

// forget has every helper asked again before its next login.
func (h *helpers) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, a := range h.answers {
		a.asked, a.renewed = time.Time{}, time.Time{}
		h.answers[key] = a
	}
}

// login is the helper's answer, kept or new. One that was refused is not given out of what is kept unless the helper
// was asked for another a moment ago.
func (h *helpers) login(ctx context.Context, call helperCall, refused *Login) (Login, error) {
	key := helperKey{call.program, call.server}
	if a, ok := h.kept(key, refused); ok {
		return a.result()
	}
	flight := h.flight.DoChan(key.program+"\x00"+key.server, func() (any, error) {
		if a, ok := h.kept(key, refused); ok {
			return a, nil
		}
		return h.ask(context.WithoutCancel(ctx), call, key, refused != nil), nil
	})
	select {
	case <-ctx.Done():
		return Login{}, context.Cause(ctx)
	case r := <-flight:
		return r.Val.(answer).result()
	}
}

func (a answer) result() (Login, error) {
	if a.held {
		return a.login, nil
	}
	return Login{}, a.err
}

// kept is the answer that will do without asking.
func (h *helpers) kept(key helperKey, refused *Login) (answer, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, known := h.answers[key]
	if !known {
		return answer{}, false
	}
	switch {
	case a.err != nil:
		return a, time.Since(a.asked) < coolDown
	case refused != nil && a.login.Same(*refused):
		return a, time.Since(a.renewed) < renewEvery
	}
	return a, time.Since(a.asked) < keepFor
}

// ask runs the helper and keeps what it says.
func (h *helpers) ask(ctx context.Context, call helperCall, key helperKey, renew bool) answer {
	h.slots <- struct{}{}
	login, err := h.run(ctx, call)
	<-h.slots
	gone := errors.Is(err, ErrNone)
	if gone && call.required {
		err = fmt.Errorf("docker-credential-%s: has no login for %s", strings.TrimPrefix(filepath.Base(call.program), "docker-credential-"), call.server)
	}
	h.mu.Lock()
	before := h.answers[key]
	after := answer{login: login, held: err == nil, err: err, asked: time.Now(), renewed: before.renewed}
	if renew {
		after.renewed = after.asked
	}
	if err != nil && !gone && before.held {
		after.login, after.held = before.login, true
	}
	if _, known := h.answers[key]; !known && len(h.answers) >= maxAnswers {
		clear(h.answers)
	}
	h.answers[key] = after
	h.mu.Unlock()
	h.report.helper(call.label, failure(err), failure(before.err))
	return after
}

// failure is the error unless it is that there is no login, which is an answer like any other.
func failure(err error) error {
	if errors.Is(err, ErrNone) {
		return nil
	}
	return err
}
