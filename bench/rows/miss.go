package rows

import (
	"context"
	"slices"
	"sync"
	"time"

	"container-registry-proxy/bench/load"
)

// colds measures one client that asks for what nobody has, at an origin that gives a connection rate bytes a second; 0
// is as many as it can.
func colds(size, rate int64) func(context.Context, *Stand) (Measure, error) {
	return func(_ context.Context, s *Stand) (Measure, error) {
		return func(ctx context.Context, column string) (Sample, error) { return s.cold(ctx, column, 1, size, rate) }, nil
	}
}

// herds measures clients that ask for the same cold blob at the same time. Their connections are there before.
func herds(clients int, rate int64) func(context.Context, *Stand) (Measure, error) {
	return func(_ context.Context, s *Stand) (Measure, error) {
		return func(ctx context.Context, column string) (Sample, error) {
			return s.cold(ctx, column, clients, blobSize, rate)
		}, nil
	}
}

// cold has clients ask for one new blob at once. The leader is the one whose first byte came first.
func (s *Stand) cold(ctx context.Context, column string, clients int, size, rate int64) (Sample, error) {
	digest, err := s.Origin.Control.Blob(ctx, size)
	if err != nil {
		return nil, err
	}
	if err := s.Origin.Control.Limit(ctx, rate); err != nil {
		return nil, err
	}
	defer func() { _ = s.Origin.Control.Limit(ctx, 0) }() // what fails with it fails at the next row too
	before, err := s.Origin.Control.Counts(ctx)
	if err != nil {
		return nil, err
	}
	d := s.door(column, intercepted)
	open, err := load.DialAll(ctx, d.Target, clients, load.Options{})
	defer load.CloseAll(open)
	if err != nil {
		return nil, err
	}
	answers := make([]load.Answer, clients)
	var share float64
	used, err := charge(d.Process, func() (err error) {
		share, err = whileBusy(func() error {
			return load.Parallel(clients, clients, func(i int) (err error) {
				answers[i], err = open[i].Get(ctx, load.Request{Path: blobPath(digest)})
				return err
			})
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	after, err := s.Origin.Control.Counts(ctx)
	if err != nil {
		return nil, err
	}
	asked := after.Minus(before)
	slices.SortFunc(answers, func(a, b load.Answer) int { return int(a.First - b.First) })
	leader, last := answers[0], answers[0]
	for _, a := range answers {
		if a.Took > last.Took {
			last = a
		}
	}
	return Sample{
		took: ms(last.Took), firstByte: ms(leader.First), firstLag: (answers[clients-1].First - leader.First).Seconds(),
		lastOverLeader: float64(last.Took) / float64(leader.Took), "leader_ms": ms(leader.Took),
		cpuPerGiB: used.Seconds() / (float64(size) * float64(clients) / gib), busy: share, "ms_per_gib": ms(last.Took) / (float64(size) / gib),
		wholeGets: float64(asked.BlobGets), "range_gets": float64(asked.BlobRanges), upstreamShare: float64(asked.Bytes) / float64(size),
	}, nil
}

// layers are the sizes of an image's layers in MiB, 128 together: a few large ones and many small ones, as images have.
func layers() []int64 { return []int64{40, 24, 16, 12, 10, 8, 6, 4, 3, 2, 2, 1} }

// pulled is an image at the origin.
type pulled struct {
	tag, index, manifest string
	blobs                []string // its config and its layers
	bytes                int64    // of the blobs
}

// images measures nodes that pull an image at the same time, three blobs at once each.
func images(nodes int, warm bool) func(context.Context, *Stand) (Measure, error) {
	return func(ctx context.Context, s *Stand) (Measure, error) {
		if !warm {
			return func(ctx context.Context, column string) (Sample, error) {
				image, err := s.newImage(ctx, "")
				if err != nil {
					return nil, err
				}
				return s.pull(ctx, column, nodes, image)
			}, nil
		}
		image, err := s.newImage(ctx, "")
		if err != nil {
			return nil, err
		}
		primed := map[string]bool{}
		return func(ctx context.Context, column string) (Sample, error) {
			if !primed[column] {
				primed[column] = true
				if _, err := s.pull(ctx, column, 1, image); err != nil {
					return nil, err
				}
			}
			return s.pull(ctx, column, nodes, image)
		}, nil
	}
}

func (s *Stand) pull(ctx context.Context, column string, nodes int, image *pulled) (Sample, error) {
	before, err := s.Origin.Control.Counts(ctx)
	if err != nil {
		return nil, err
	}
	d := s.door(column, intercepted)
	var mu sync.Mutex // guards whole and first
	var whole, first []time.Duration
	var share float64
	used, err := charge(d.Process, func() (err error) {
		share, err = whileBusy(func() error {
			return load.Parallel(nodes, nodes, func(int) error {
				w, f, err := node(ctx, d.Target, image)
				mu.Lock()
				defer mu.Unlock()
				whole, first = append(whole, w), append(first, f)
				return err
			})
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	after, err := s.Origin.Control.Counts(ctx)
	if err != nil {
		return nil, err
	}
	slices.Sort(whole)
	slices.Sort(first)
	asked := after.Minus(before)
	return Sample{
		p50: ms(load.Quantile(whole, 0.5)), took: ms(whole[len(whole)-1]), firstByte: ms(load.Quantile(first, 0.5)),
		cpuPerGiB: used.Seconds() / (float64(image.bytes) * float64(nodes) / gib), busy: share,
		upstreamShare: float64(asked.Bytes) / float64(image.bytes), "manifest_gets": float64(asked.ManifestGets),
	}, nil
}

// node pulls an image as containerd does: the tag's index, the manifest, then the config and the layers, three at a time
// over connections that are kept. It returns how long the whole took, and until the index was there.
func node(ctx context.Context, target load.Target, image *pulled) (whole, first time.Duration, err error) {
	began := time.Now()
	main, err := load.Dial(ctx, target, load.Options{})
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = main.Close() }()
	if _, err := main.Get(ctx, load.Request{Path: manifestPath(image.tag)}); err != nil {
		return 0, 0, err
	}
	first = time.Since(began)
	if _, err := main.Get(ctx, load.Request{Path: manifestPath(image.manifest)}); err != nil {
		return 0, 0, err
	}
	more, err := load.DialAll(ctx, target, 2, load.Options{})
	defer load.CloseAll(more)
	if err != nil {
		return 0, 0, err
	}
	_, err = load.Pull(ctx, append(more, main), len(image.blobs), func(i int) load.Request { return load.Request{Path: blobPath(image.blobs[i])} })
	return time.Since(began), first, err
}
