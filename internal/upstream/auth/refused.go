package auth

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

const (
	// maxMarks bounds the refusals and the acceptances that are remembered.
	maxMarks = 4096
	// acceptedFor is how long a login counts as good after the registry has taken it: one that is refused meanwhile is
	// refused for that repository alone.
	acceptedFor = 10 * time.Minute
)

// refusedError says that a challenge cannot be answered with a login although there may be one. It matches
// [ErrNoAnswer]. Its text shows no secret.
type refusedError struct {
	login  credential.Login // zero where it cannot be had
	narrow bool             // it speaks of what was asked for, not of the login
	reason string
}

func (e *refusedError) Error() string { return ErrNoAnswer.Error() + ": " + e.reason }
func (e *refusedError) Unwrap() error { return ErrNoAnswer }

// markKey is what a refusal concerns: a login at a registry, for one repository or, where that is empty, for all. The
// login's key is zero where the login cannot be had.
type markKey struct {
	registry   oci.Registry
	repository string
	login      secret.Key
}

type mark struct{ at, until time.Time }

// refusals remembers which logins are of no use where. A login that was refused rests for a minute.
type refusals struct {
	log      *slog.Logger
	metrics  *metrics
	marks    *lru[markKey, mark]
	accepted *lru[markKey, time.Time]
	any      atomic.Bool // marks has ever held one; spares the common case a look
}

func newRefusals(log *slog.Logger, m *metrics) *refusals {
	r := &refusals{log: log, metrics: m, marks: newLRU[markKey, mark](maxMarks), accepted: newLRU[markKey, time.Time](maxMarks)}
	m.refused = r.count
	return r
}

// keyOf is the login's key, or zero for the zero login.
func keyOf(login credential.Login) secret.Key {
	if login == (credential.Login{}) {
		return secret.Key{}
	}
	return login.Key()
}

// rests reports whether the login was refused for the repository within the last minute.
func (r *refusals) rests(reg oci.Registry, repository string, login credential.Login) bool {
	if !r.any.Load() {
		return false
	}
	key := keyOf(login)
	for _, repository := range []string{"", repository} {
		if m, ok := r.marks.get(markKey{reg, repository, key}); ok && time.Now().Before(m.until) {
			return true
		}
	}
	return false
}

// note remembers a refusal, and says so where it is new.
func (r *refusals) note(ctx context.Context, reg oci.Registry, repository string, refused *refusedError) {
	key, now := keyOf(refused.login), time.Now()
	if taken, ok := r.accepted.get(markKey{reg, "", key}); !refused.narrow && !(ok && now.Sub(taken) < acceptedFor) {
		repository = ""
	}
	if key == (secret.Key{}) {
		repository = "" // which login it would be is not known
	}
	r.any.Store(true)
	what, level, text := "login", slog.LevelWarn, "configured login is refused"
	if repository != "" {
		what, level, text = "repository", slog.LevelInfo, "configured login is refused for a repository"
	}
	k := markKey{reg, repository, key}
	_, known := r.marks.get(k)
	r.marks.put(k, mark{now, now.Add(refusedFor)})
	r.metrics.refusal(reg, what)
	if !known {
		r.log.Log(ctx, level, text, "registry", string(reg), "repository", repository, "source", refused.login.Source, "err", refused.reason)
	}
}

// accept remembers that the registry, or its token service, has taken the login; and the registry for the repository, if
// that is not empty.
func (r *refusals) accept(ctx context.Context, reg oci.Registry, repository string, login credential.Login) {
	key := keyOf(login)
	r.accepted.put(markKey{reg, "", key}, time.Now())
	if !r.any.Load() {
		return
	}
	all := func(mark) bool { return true }
	r.marks.drop(markKey{registry: reg}, all)
	if r.marks.drop(markKey{reg, "", key}, all) {
		r.log.InfoContext(ctx, "configured login is taken again", "registry", string(reg), "source", login.Source)
	}
	if repository != "" {
		r.marks.drop(markKey{reg, repository, key}, all)
	}
}

// forget has every login tried again.
func (r *refusals) forget() {
	r.marks.clear()
	r.accepted.clear()
}

// count is how many logins each registry refuses: those refused lately and not taken since.
func (r *refusals) count(yield func(oci.Registry)) {
	r.marks.each(func(k markKey, m mark) {
		if k.repository == "" && time.Since(m.at) < acceptedFor {
			yield(k.registry)
		}
	})
}
