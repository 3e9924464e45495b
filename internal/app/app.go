// Package app is the only wiring: it turns a configuration into a running proxy and takes it down again. Its invariant:
// whatever was started is stopped, in the reverse order, within a bound, however far the start had come.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/garbage"
	"container-registry-proxy/internal/lines"
)

// heapFloor is below how many bytes the collector leaves the heap in peace. It is little beside what the page cache takes,
// and saves a tenth of what a small request costs.
const heapFloor = 32 << 20

// drainTimeout is how long running pulls and tunnels may take to finish after the order to stop.
const drainTimeout = 5 * time.Minute

// Run serves until ctx ends, then drains and returns. Settings come from environ, as in [os.Environ]. What a person
// should see goes to stdout, the log to stderr. All problems of the configuration are in one error.
func Run(ctx context.Context, environ []string, stdout, stderr io.Writer) error {
	cfg, err := config.Load(environ)
	if err != nil {
		return err
	}
	defer garbage.Floor(heapFloor)()
	level := &slog.LevelVar{}
	level.Set(cfg.LogLevel)
	gathered := lines.New(stderr)
	defer func() { _ = gathered.Flush() }() // there is no log to say that there is none
	a, err := open(&App{cfg: cfg, log: newLogger(cfg, level, gathered), level: level})
	if err != nil {
		return err
	}
	a.reloadAtSignal(ctx, func() (*config.Config, error) { return config.Load(environ) })
	if err := a.Listen(); err != nil {
		return errors.Join(err, a.Close(context.Background()))
	}
	a.greet(stdout)
	a.tell(stateReady)
	return a.Serve(ctx)
}

// App is one proxy: its parts, its listeners and the order in which they end.
type App struct {
	cfg   *config.Config
	level *slog.LevelVar // of the log; nil means that it does not change
	live  atomic.Pointer[live]
	log   *slog.Logger
	parts *parts
	front net.Listener // clients
	admin net.Listener // the operator
	stops stops
	state atomic.Int32

	// resolver answers every name lookup; nil means the system's. Tests set it, for an internet of their own.
	resolver dial.Resolver
}

// The states of an App: it gets clients while it serves.
const (
	starting int32 = iota
	serving
	draining
)

// New opens what is on disk and wires the parts. Nothing listens and nothing runs yet.
func New(cfg *config.Config, log *slog.Logger) (*App, error) { return open(&App{cfg: cfg, log: log}) }

// open is New for an App with nothing but what its parts are made of.
func open(a *App) (*App, error) {
	for _, notice := range a.cfg.Notices {
		a.log.Warn(notice)
	}
	a.live.Store(newLive(a.cfg))
	var err error
	if a.parts, err = a.wire(); err != nil {
		return nil, errors.Join(err, a.Close(context.Background()))
	}
	return a, nil
}

// Listen opens the listeners, so that their addresses are known before anything is served.
func (a *App) Listen() error {
	var err error
	if a.front, err = listenForClients(a.cfg.Listen); err != nil {
		return fmt.Errorf("LISTEN=%s: %w", a.cfg.Listen, explainListen(err))
	}
	a.stops.add("client listener", func(context.Context) error { return ignoreClosed(a.front.Close()) })
	if a.admin, err = net.Listen("tcp", a.cfg.AdminListen); err != nil {
		return fmt.Errorf("ADMIN_LISTEN=%s: %w", a.cfg.AdminListen, explainListen(err))
	}
	a.stops.add("operator listener", func(context.Context) error { return ignoreClosed(a.admin.Close()) })
	a.parts.own.set(a.front.Addr(), a.admin.Addr())
	return nil
}

// Addr is the address that clients connect to.
func (a *App) Addr() net.Addr { return a.front.Addr() }

// AdminAddr is the address of the operator's listener.
func (a *App) AdminAddr() net.Addr { return a.admin.Addr() }

// Serve serves until ctx ends or a part fails, then drains.
func (a *App) Serve(ctx context.Context) error {
	admin := &http.Server{Handler: a.parts.admin, ReadHeaderTimeout: 10 * time.Second}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, failed := errgroup.WithContext(ctx)
	g.Go(func() error { return a.parts.store.DB().Run(running) })
	g.Go(func() error { return a.parts.store.Run(running) })
	g.Go(func() error { return a.parts.authority.Run(running) })
	g.Go(func() error { return a.parts.trust.Run(running) })
	g.Go(func() error { return a.sweep(running) })
	for _, list := range a.cfg.Warm {
		g.Go(func() error { return keepWarm(running, a.parts.cache, list, a.log.With("component", "warm")) })
	}
	g.Go(func() error { return ignoreClosed(a.parts.proxy.Serve(a.front)) })
	g.Go(func() error { return ignoreClosed(admin.Serve(a.admin)) })
	a.stops.add("operator server", admin.Shutdown)
	a.stops.add("background work", func(context.Context) error { stop(); return nil })
	a.stops.add("downloads", func(context.Context) error { a.parts.cache.Close(); return nil })
	a.stops.add("clients", a.parts.proxy.Shutdown)
	// First of all the cache directory, for the process that takes our place: what runs here goes on without it.
	a.stops.add("cache directory", func(context.Context) error { return a.parts.store.Close() })

	a.state.Store(serving)
	<-failed.Done()
	a.state.Store(draining)
	a.tell(stateStopping)
	if ctx.Err() != nil {
		a.log.Info("draining", "bound", drainTimeout.String())
	}
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := a.Close(bound)
	stop()
	return errors.Join(err, ignoreCanceled(g.Wait()))
}

// ready says why the proxy should get no clients, or nothing.
func (a *App) ready() error {
	switch a.state.Load() {
	case starting:
		return errors.New("starting")
	case draining:
		return errors.New("draining")
	}
	return nil
}

// healthy says what keeps the proxy from being of use, or nothing. A cache that keeps nothing new is of use: what it has
// is served, and the rest passes through.
func (a *App) healthy() error { return nil }

// Close takes down what was opened, last first. It may be called again.
func (a *App) Close(ctx context.Context) error { return a.stops.run(ctx, a.log) }

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
