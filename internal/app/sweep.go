package app

import (
	"context"
	"time"
)

const (
	// sweepAfter lets a proxy that has just started serve first, and sweepEvery is rare: what is swept costs little.
	sweepAfter = time.Hour
	sweepEvery = 24 * time.Hour
)

// sweep drops metadata that nobody will use any more, now and then, until ctx ends.
func (a *App) sweep(ctx context.Context) error {
	return nowAndThen(ctx, func() {
		n := a.parts.known.Sweep(a.parts.store.Holds, time.Now().Add(-a.cfg.CacheInactive))
		a.log.Info("metadata swept", "component", "metadata", "records", n)
	})
}

// nowAndThen does something that can wait, until ctx ends.
func nowAndThen(ctx context.Context, do func()) error {
	timer := time.NewTimer(sweepAfter)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		do()
		timer.Reset(sweepEvery)
	}
}
