package rows

import (
	"context"
	"fmt"
	"time"

	"container-registry-proxy/bench/load"
)

// The columns of growth are the same program with once, four times and sixteen times as much to do.
func steps() map[string]int { return map[string]int{"1×": 1, "4×": 4, "16×": 16} }

// linear is what sixteen times as much may cost for each unit, against once: linear, but for the noise of a machine.
const linear = 1.25

// growth are the rows that ask whether what a unit costs stays what it is when there are more of them.
func growth(scale Scale) []Row {
	row := func(name, title, what, metric string, measure func(ctx context.Context, s *Stand, factor int) (Sample, error)) Row {
		return Row{
			Name: "growth-" + name, Title: "growth: " + title + ", 1×, 4×, 16×", Columns: []string{"1×", "4×", "16×"}, Rounds: scale.Long,
			Claims: []Claim{{What: what + ", 16×", Metric: metric, Of: "16×", Over: "1×", AtMost: linear}},
			Prepare: func(_ context.Context, s *Stand) (Measure, error) {
				return func(ctx context.Context, column string) (Sample, error) { return measure(ctx, s, steps()[column]) }, nil
			},
		}
	}
	return []Row{
		row("hit-size", "size of a cached blob, from 16 MiB", "CPU per GiB", cpuPerGiB, func(ctx context.Context, s *Stand, factor int) (Sample, error) {
			return s.prepared(ctx, hits(2, int64(factor)*16<<20, scale.HitBytes, intercepted, []string{Ours}))
		}),
		row("hit-conns", "connections that hit 64 MiB, from 2", "CPU per GiB", cpuPerGiB, func(ctx context.Context, s *Stand, factor int) (Sample, error) {
			return s.prepared(ctx, hits(2*factor, blobSize, scale.HitBytes, intercepted, []string{Ours}))
		}),
		row("small", "connections that hit 2 KiB, from 4", "CPU per request", cpuPerRequest, func(ctx context.Context, s *Stand, factor int) (Sample, error) {
			return s.prepared(ctx, smallHits("config", 4*factor, scale.Small, []string{Ours}))
		}),
		row("setup", "connections set up at a time, from 4", "CPU per connection", cpuPerConn, func(ctx context.Context, s *Stand, factor int) (Sample, error) {
			return s.prepared(ctx, setUps(4*factor, scale.SetUps, false, []string{Ours}))
		}),
		row("cold", "size of a cold blob, from 64 MiB", "CPU per GiB", cpuPerGiB, func(ctx context.Context, s *Stand, factor int) (Sample, error) {
			return s.cold(ctx, Ours, 1, int64(factor)*64<<20, 0)
		}),
		row("herd", "clients of one cold blob, from 4", "CPU per GiB", cpuPerGiB, func(ctx context.Context, s *Stand, factor int) (Sample, error) {
			return s.cold(ctx, Ours, 4*factor, blobSize, 50e6)
		}),
		row("idle", "idle connections, from 300", "KiB each", kibEach, func(ctx context.Context, s *Stand, factor int) (Sample, error) {
			return s.prepared(ctx, idles(300*factor, time.Second, intercepted))
		}),
		row("fills", "cold blobs of 1 MiB, 8 at a time, from 32", "CPU per GiB", cpuPerGiB, func(ctx context.Context, s *Stand, factor int) (Sample, error) {
			return s.fills(ctx, 32*factor)
		}),
	}
}

// prepared measures ours once.
func (s *Stand) prepared(ctx context.Context, prepare func(context.Context, *Stand) (Measure, error)) (Sample, error) {
	measure, err := prepare(ctx, s)
	if err != nil {
		return nil, err
	}
	return measure(ctx, Ours)
}

// fills has ours fill n blobs of 1 MiB.
func (s *Stand) fills(ctx context.Context, n int) (Sample, error) {
	digests, err := s.Origin.Control.Blobs(ctx, n, 1<<20)
	if err != nil {
		return nil, err
	}
	d := s.door(Ours, intercepted)
	open, err := load.DialAll(ctx, d.Target, 8, load.Options{})
	defer load.CloseAll(open)
	if err != nil {
		return nil, err
	}
	used, err := charge(d.Process, func() error {
		_, err := load.Pull(ctx, open, n, func(i int) load.Request { return load.Request{Path: blobPath(digests[i])} })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fill %d blobs: %w", n, err)
	}
	return Sample{cpuPerGiB: used.Seconds() / (float64(n) / 1024)}, nil
}
