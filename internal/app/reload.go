package app

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"container-registry-proxy/internal/config"
)

// reloadAtSignal reads the configuration again at each SIGHUP, until ctx ends. The signal no longer ends the process from
// now on.
func (a *App) reloadAtSignal(ctx context.Context, load func() (*config.Config, error)) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	done := make(chan struct{})
	a.stops.add("reloads", func(context.Context) error { signal.Stop(hangups); close(done); return nil })
	go func() { // until the app is closed
		for {
			select {
			case <-hangups:
				a.Reload(load)
			case <-done:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
}

// Reload has a configuration that was read anew count, as far as that is possible while the proxy serves; what is not is
// named. Logins that were refused are tried again. A configuration that is wrong changes nothing.
func (a *App) Reload(load func() (*config.Config, error)) {
	cfg, err := load()
	if err != nil {
		for problem := range strings.Lines(err.Error()) {
			a.log.Error("configuration is wrong: nothing is changed", "err", strings.TrimSuffix(problem, "\n"))
		}
		return
	}
	for _, notice := range cfg.Notices {
		a.log.Warn(notice)
	}
	before := a.live.Load().cfg
	a.live.Store(newLive(cfg))
	a.parts.logins.Replace(cfg.Credentials)
	a.parts.upstream.Auth().Reload()
	if a.level != nil {
		a.level.Set(cfg.LogLevel)
	}
	if names := before.NeedsRestart(cfg); len(names) > 0 {
		a.log.Warn("changed settings that count only after a restart", "settings", strings.Join(names, " "))
	}
	a.log.Info("configuration is read again")
}

// named reports whether the operator names a host.
func (a *App) named(host string) bool { return a.live.Load().cfg.Named(host) }

// owned reports whether a host may have any address, because the operator names it and no stranger can have that name.
func (a *App) owned(host string) bool { return a.live.Load().cfg.Owned(host) }
