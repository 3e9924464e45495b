package rows

import (
	"context"
	"sync/atomic"
	"time"

	"container-registry-proxy/bench/load"
)

// idles measures connections that were used once and are kept: what each takes, and whether all still work at the end.
func idles(n int, rest time.Duration, way string) func(context.Context, *Stand) (Measure, error) {
	return func(ctx context.Context, s *Stand) (Measure, error) {
		path, err := s.smallPath(ctx, "config")
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, column string) (Sample, error) {
			return s.idle(ctx, column, way, path, n, rest)
		}, nil
	}
}

func (s *Stand) idle(ctx context.Context, column, way, path string, n int, rest time.Duration) (Sample, error) {
	d := s.door(column, way)
	before, err := s.fresh(ctx, d, path)
	if err != nil {
		return nil, err
	}
	open, err := load.DialAll(ctx, d.Target, n, load.Options{})
	defer load.CloseAll(open)
	failed := int64(n - len(open))
	if err != nil && column == Ours {
		return nil, err
	}
	use := func() int64 {
		var lost atomic.Int64
		_ = load.Parallel(8, len(open), func(i int) error { // what fails is counted
			if _, err := open[i].Get(ctx, load.Request{Path: path}); err != nil {
				lost.Add(1)
			}
			return nil
		})
		return lost.Load()
	}
	failed += use()
	after, err := s.rested(d, rest)
	if err != nil {
		return nil, err
	}
	if err := s.profileMemory(ctx, column, "idle-"+way); err != nil {
		return nil, err
	}
	lost := use()
	return Sample{kibEach: float64(after-before) / (1 << 10) / float64(n), dropped: float64(max(failed, lost)), "mib": float64(after) / (1 << 20)}, nil
}

// fresh restarts the program behind a door, so that what it once needed for something else is not in the account, has it
// answer once, and returns its memory.
func (s *Stand) fresh(ctx context.Context, d door, path string) (int64, error) {
	if _, err := d.Restart(ctx); err != nil {
		return 0, err
	}
	if err := once(ctx, d.Target, path); err != nil {
		return 0, err
	}
	return s.rested(d, time.Second)
}

// rested returns the memory of a program that has had a while to give back what it no longer needs.
func (s *Stand) rested(d door, rest time.Duration) (int64, error) {
	if err := settle(d.Process); err != nil {
		return 0, err
	}
	time.Sleep(rest)
	return d.Memory()
}

// slows measures clients that read different blobs slowly: what each takes while all of them are at it.
func slows(n int) func(context.Context, *Stand) (Measure, error) {
	const size, rate, receive = 8 << 20, 256 << 10, 64 << 10
	return func(ctx context.Context, s *Stand) (Measure, error) {
		digests, err := s.Origin.Control.Blobs(ctx, n, size)
		if err != nil {
			return nil, err
		}
		request := func(i int) load.Request { return load.Request{Path: blobPath(digests[i])} }
		return func(ctx context.Context, column string) (Sample, error) {
			d := s.door(column, intercepted)
			quick, err := load.DialAll(ctx, d.Target, 4, load.Options{})
			if err == nil {
				_, err = load.Pull(ctx, quick, n, request)
			}
			load.CloseAll(quick)
			if err != nil {
				return nil, err
			}
			before, err := s.fresh(ctx, d, blobPath(digests[0]))
			if err != nil {
				return nil, err
			}
			open, err := load.DialAll(ctx, d.Target, n, load.Options{ReceiveBuffer: receive})
			defer load.CloseAll(open)
			if err != nil {
				return nil, err
			}
			after, reading, err := readSlowly(ctx, d, open, rate, request)
			if err == nil {
				err = s.profileMemory(ctx, column, "slow")
			}
			return Sample{kibEach: float64(after-before) / (1 << 10) / float64(n), "reading": float64(reading), "mib": float64(after) / (1 << 20)}, err
		}, nil
	}
}

// readSlowly has every connection read its blob at a rate, until it is closed, and returns the server's memory and how
// many had begun, after a while in which the server has had to wait for each and none can have come to its end.
func readSlowly(ctx context.Context, d door, open []*load.Conn, rate int64, request func(i int) load.Request) (memory int64, reading int, err error) {
	var begun atomic.Int64
	for i, c := range open {
		go func() { // until the connection is closed
			r := request(i)
			r.Rate, r.First = rate, func() { begun.Add(1) }
			_, _ = c.Get(ctx, r) // it is cut off
		}()
	}
	time.Sleep(10 * time.Second)
	memory, err = d.Memory()
	return memory, int(begun.Load()), err
}
