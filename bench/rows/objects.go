package rows

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"container-registry-proxy/bench/load"
	"container-registry-proxy/bench/peer"
)

// manyObjects measures many small blobs: filling them, hitting them, what they take, and how soon they are there after a
// restart. Ours is a process of its own, which begins empty.
func manyObjects(scale Scale) func(context.Context, *Stand) (Measure, error) {
	return func(ctx context.Context, s *Stand) (Measure, error) {
		digests, err := s.Origin.Control.Blobs(ctx, scale.Objects, 4<<10)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, column string) (Sample, error) {
			switch column {
			case LimitHTTP:
				m := many{stand: s, door: s.door(column, intercepted), digests: digests, prefix: peer.FillPrefix}
				return m.fillAndHitMemory(ctx, scale.ObjectsFor, scale.ObjectsHits)
			case Nginx:
				m := many{stand: s, door: s.door(column, intercepted), digests: digests, rest: scale.Rest}
				return m.measure(ctx, scale.ObjectsFor, scale.ObjectsHits)
			}
			program := map[string]string{Ours: s.cfg.Ours, Before: s.cfg.Before}[column]
			ours, err := s.startOurs(ctx, program, column+"-objects")
			if err != nil {
				return nil, errors.Join(err, ours.Stop())
			}
			m := many{stand: s, door: door{ours.Intercept, ours.Process}, digests: digests, rest: scale.Rest}
			if column == Ours {
				m.profiled = ours
			}
			sample, err := m.measure(ctx, 0, scale.ObjectsHits)
			return sample, errors.Join(err, ours.Stop(), os.RemoveAll(s.dirOf(column+"-objects")))
		}, nil
	}
}

// many is one program with many objects.
type many struct {
	stand   *Stand
	door    door
	digests []string
	prefix  string // of the paths that it is filled by
	filled  int    // how many of them it has
	rest    time.Duration
	// profiled is what profiles are taken of, if that is wanted; nil means nothing.
	profiled *peer.Ours
}

const (
	objectConns = 32
	// afterRestart is how long a program rests that has been started again, where memory is to be measured with care: ours
	// gives back within that time what it needed to read its index.
	afterRestart = 8 * time.Second
)

// measure fills for no longer than limit, 0 being no limit, and then takes hits of what was filled.
func (m *many) measure(ctx context.Context, limit time.Duration, hits int) (Sample, error) {
	empty, err := m.stand.rested(m.door, time.Second)
	if err != nil {
		return nil, err
	}
	open, err := load.DialAll(ctx, m.door.Target, objectConns, load.Options{})
	defer load.CloseAll(open)
	if err != nil {
		return nil, err
	}
	profile := m.profile(ctx, "fill")
	sample, err := m.fill(ctx, open, limit)
	if err = errors.Join(err, <-profile); err != nil {
		return nil, err
	}
	profile = m.profile(ctx, "hit")
	err = takeHits(ctx, open, hits, sample, func() string { return blobPath(m.digests[rand.IntN(m.filled)]) })
	if err = errors.Join(err, <-profile); err != nil {
		return nil, err
	}
	load.CloseAll(open)
	open = nil
	return sample, m.restart(ctx, sample, empty)
}

// takeHits measures hits over all the connections.
func takeHits(ctx context.Context, open []*load.Conn, hits int, sample Sample, path func() string) error {
	stats, err := load.Pull(ctx, open, hits, func(int) load.Request { return load.Request{Path: path()} })
	if err != nil {
		return err
	}
	sample[p50], sample[p99] = ms(load.Quantile(stats.Each, 0.5)), ms(load.Quantile(stats.Each, 0.99))
	sample[perSecond] = float64(hits) / stats.Took.Seconds()
	return nil
}

// fillAndHitMemory is measure of the limit, which forgets what it has filled: its hits are all of what is in memory.
func (m *many) fillAndHitMemory(ctx context.Context, limit time.Duration, hits int) (Sample, error) {
	open, err := load.DialAll(ctx, m.door.Target, objectConns, load.Options{})
	defer load.CloseAll(open)
	if err != nil {
		return nil, err
	}
	sample, err := m.fill(ctx, open, limit)
	if err != nil {
		return nil, err
	}
	return sample, takeHits(ctx, open, hits, sample, func() string { return "/" })
}

// profile takes a profile of what begins now and returns what came of it.
func (m *many) profile(ctx context.Context, of string) <-chan error {
	if m.profiled == nil {
		taken := make(chan error, 1)
		taken <- nil
		return taken
	}
	return m.stand.profileNow(ctx, m.profiled, "objects-"+of)
}

// fill asks for the objects in order, a sixteenth at a time.
func (m *many) fill(ctx context.Context, open []*load.Conn, limit time.Duration) (Sample, error) {
	step := max(1, len(m.digests)/16)
	var costs []time.Duration
	began := time.Now()
	for m.filled+step <= len(m.digests) && (limit == 0 || time.Since(began) < limit) {
		var next atomic.Int64
		next.Store(int64(m.filled))
		used, err := m.stepCost(func() error {
			_, err := load.Pull(ctx, open, step, func(int) load.Request {
				return load.Request{Path: m.prefix + blobPath(m.digests[next.Add(1)-1])}
			})
			return err
		})
		if err != nil {
			return nil, err
		}
		costs = append(costs, used)
		m.filled += step
	}
	spent := time.Since(began)
	return Sample{
		fillRate: float64(m.filled) / spent.Seconds(), fillGrowth: float64(costs[len(costs)-1]) / float64(costs[0]),
		"filled": float64(m.filled), "cpu_us_per_fill": float64(total(costs).Microseconds()) / float64(m.filled),
	}, nil
}

// stepCost is charge without waiting: the rate of the filling is measured with it.
func (m *many) stepCost(work func() error) (time.Duration, error) {
	before, err := m.door.CPU()
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := m.door.CPU()
	return after - before, err
}

func total(list []time.Duration) (sum time.Duration) {
	for _, d := range list {
		sum += d
	}
	return sum
}

// restart ends the program and starts it again, and measures until it gives out an object it had. What it then takes more
// than it did when it was empty is what the objects take, as none of them has been brought into memory yet.
func (m *many) restart(ctx context.Context, sample Sample, empty int64) error {
	if err := settle(m.door.Process); err != nil {
		return err
	}
	before, err := m.stand.Origin.Control.Counts(ctx)
	if err != nil {
		return err
	}
	if err := m.door.Stop(); err != nil {
		return err
	}
	began := time.Now()
	if _, err := m.door.Restart(ctx); err != nil {
		return err
	}
	if err := once(ctx, m.door.Target, blobPath(m.digests[m.filled/2])); err != nil {
		return err
	}
	sample[restart] = time.Since(began).Seconds()
	after, err := m.stand.Origin.Control.Counts(ctx)
	if err != nil {
		return err
	}
	sample[upstreamShare] = float64(after.Minus(before).Bytes)
	loaded, err := m.stand.rested(m.door, min(afterRestart, m.rest))
	sample[bytesEach] = float64(loaded-empty) / float64(m.filled)
	return err
}
