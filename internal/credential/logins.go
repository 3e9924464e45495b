package credential

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"container-registry-proxy/internal/oci"
)

// Config says which logins there are. Entries that are malformed are logged and left out.
type Config struct {
	// Entries say where logins are kept.
	Entries []Entry
	// Environ is the environment of helpers, as in [os.Environ]; AUTH_REGISTRIES and its delimiters are kept from them. It
	// has the PATH that they are found by.
	Environ []string
	// HelperTimeout bounds one run of a helper; 0 means 30 s.
	HelperTimeout time.Duration
	// Log is told, once each time, of a source that fails or works again; nil means discard.
	Log *slog.Logger
	// Registerer receives the metrics; nil means none are kept.
	Registerer prometheus.Registerer
}

// Logins are the operator's. They are safe for concurrent use.
type Logins struct {
	log     *slog.Logger
	report  *reporter
	helpers *helpers
	kept    atomic.Pointer[kept]
}

// kept is what entries say. It does not change.
type kept struct {
	entries []*entry
	hosts   []oci.Registry
}

// New reads the files of cfg once. It runs no helper.
func New(cfg Config) *Logins {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	report := newReporter(cfg.Log, cfg.Registerer)
	l := &Logins{log: cfg.Log, report: report, helpers: newHelpers(cfg, report)}
	l.keep(cfg.Entries)
	return l
}

// Replace has other entries count from now on. Files are read and helpers asked anew.
func (l *Logins) Replace(entries []Entry) {
	l.keep(entries)
	l.helpers.forget()
}

func (l *Logins) keep(entries []Entry) {
	k := &kept{}
	for _, e := range entries {
		parsed, err := newEntry(e, l.report)
		if err != nil {
			l.log.Error("login left out", "source", e.label(), "err", err)
			continue
		}
		k.entries = append(k.entries, parsed)
		if parsed.host != "" && !slices.Contains(k.hosts, parsed.host) {
			k.hosts = append(k.hosts, parsed.host)
		}
	}
	l.kept.Store(k)
}

// Hosts are those that entries name, registries and token services alike.
func (l *Logins) Hosts() []oci.Registry { return l.kept.Load().hosts }

// Has reports whether there is a login for the repository at the host. An entry that fails has one all the same. Where
// a config.json leaves everything to a credential store, that is asked, which may take a moment the first time.
func (l *Logins) Has(ctx context.Context, host oci.Registry, repository string) bool {
	candidates := l.candidates(host, repository)
	if slices.ContainsFunc(candidates, func(c candidate) bool { return c.declared }) {
		return true
	}
	for _, c := range candidates {
		if _, err := l.helpers.login(ctx, c.call, nil); err == nil {
			return true
		}
	}
	return false
}

// Login returns the login for the repository at the host. The error is [ErrNone], or that its source fails, or the cause
// of ctx. A source that fails after it has given a login is not missed until that login is refused.
func (l *Logins) Login(ctx context.Context, host oci.Registry, repository string) (Login, error) {
	return l.find(ctx, host, repository, nil)
}

// Renew asks for a login again that was refused, and reports whether there is another one now.
func (l *Logins) Renew(ctx context.Context, host oci.Registry, repository string, refused Login) (Login, bool) {
	for _, e := range l.kept.Load().entries {
		if e.covers(host, repository) {
			e.reread()
		}
	}
	login, err := l.find(ctx, host, repository, &refused)
	return login, err == nil && !login.Same(refused)
}

// Reload has every file read and every helper asked again before its next login.
func (l *Logins) Reload() {
	for _, e := range l.kept.Load().entries {
		e.reread()
	}
	l.helpers.forget()
}

func (l *Logins) find(ctx context.Context, host oci.Registry, repository string, refused *Login) (Login, error) {
	for _, c := range l.candidates(host, repository) {
		login, err := c.login, c.err
		if c.call.program != "" {
			login, err = l.helpers.login(ctx, c.call, refused)
		}
		if err == nil || !errors.Is(err, ErrNone) {
			return login, err
		}
	}
	return Login{}, ErrNone
}

// candidate is a place where the login may be.
type candidate struct {
	prefix   int   // how much of the repository's name it is kept for
	login    Login // where no helper has to be asked
	err      error
	call     helperCall
	declared bool // whether the operator named the host for it
}

// candidates are all places for the login, the closest first.
func (l *Logins) candidates(host oci.Registry, repository string) []candidate {
	var found []candidate
	for _, e := range l.kept.Load().entries {
		if e.covers(host, repository) {
			found = e.candidates(found, host, repository)
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return b.prefix - a.prefix })
	return found
}
