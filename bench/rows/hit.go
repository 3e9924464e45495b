package rows

import (
	"context"
	"fmt"
	"strings"
	"time"

	"container-registry-proxy/bench/load"
)

// The metrics.
const (
	cpuPerGiB      = "cpu_s_per_gib"
	cpuPerRequest  = "cpu_us_per_request"
	cpuPerConn     = "cpu_ms_per_connection"
	mbPerSecond    = "mb_per_s"
	perSecond      = "per_s"
	took           = "ms"
	firstByte      = "first_byte_ms"
	p50            = "p50_ms"
	p99            = "p99_ms"
	wholeGets      = "whole_gets"
	upstreamShare  = "upstream_share"
	busy           = "cores_busy"
	firstLag       = "first_lag_s"
	lastOverLeader = "last_over_leader"
	kibEach        = "kib_each"
	dropped        = "dropped"
	fillRate       = "fills_per_s"
	fillGrowth     = "fill_growth"
	bytesEach      = "bytes_each"
	restart        = "restart_s"
)

const gib = 1 << 30

// repository is what everything is pulled from.
const repository = "/v2/team/app"

func blobPath(digest string) string        { return repository + "/blobs/" + digest }
func manifestPath(reference string) string { return repository + "/manifests/" + reference }
func isBlob(path string) bool              { return strings.Contains(path, "/blobs/") }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// hits measures a large cached blob over a number of connections. Columns that are nil are not primed: what a tunnel leads
// to is no cache.
func hits(conns int, size, total int64, way string, primed []string) func(context.Context, *Stand) (Measure, error) {
	return func(ctx context.Context, s *Stand) (Measure, error) {
		digest, err := s.Origin.Control.Blob(ctx, size)
		if err != nil {
			return nil, err
		}
		path := blobPath(digest)
		if err := s.prime(ctx, primed, way, path); err != nil {
			return nil, err
		}
		return func(ctx context.Context, column string) (Sample, error) {
			asked := path
			if column == LimitSums {
				asked = "/sums/" + digest
			}
			d := s.door(column, way)
			open, err := load.DialAll(ctx, d.Target, conns, load.Options{})
			defer load.CloseAll(open)
			if err != nil {
				return nil, err
			}
			var stats load.Stats
			used, err := charge(d.Process, func() (err error) {
				stats, err = load.Pull(ctx, open, max(conns, int(total/size)), func(int) load.Request { return load.Request{Path: asked} })
				return err
			})
			if err != nil {
				return nil, err
			}
			return Sample{
				cpuPerGiB: used.Seconds() / (float64(stats.Bytes) / gib), mbPerSecond: float64(stats.Bytes) / 1e6 / stats.Took.Seconds(),
				firstByte: ms(load.Quantile(stats.First, 0.5)),
			}, nil
		}, nil
	}
}

// smallHits measures small cached answers on connections that are kept.
func smallHits(kind string, conns, requests int, primed []string) func(context.Context, *Stand) (Measure, error) {
	return func(ctx context.Context, s *Stand) (Measure, error) {
		path, err := s.smallPath(ctx, kind)
		if err != nil {
			return nil, err
		}
		if err := s.prime(ctx, primed, intercepted, path); err != nil {
			return nil, err
		}
		return func(ctx context.Context, column string) (Sample, error) {
			d := s.door(column, intercepted)
			open, err := load.DialAll(ctx, d.Target, conns, load.Options{})
			defer load.CloseAll(open)
			if err != nil {
				return nil, err
			}
			if column == Distributed {
				requests := requests / 10 // it takes two milliseconds for one
				return measureSmall(ctx, d, open, requests, path)
			}
			return measureSmall(ctx, d, open, requests, path)
		}, nil
	}
}

func measureSmall(ctx context.Context, d door, open []*load.Conn, requests int, path string) (Sample, error) {
	var stats load.Stats
	used, err := charge(d.Process, func() (err error) {
		stats, err = load.Pull(ctx, open, requests, func(int) load.Request { return load.Request{Path: path} })
		return err
	})
	if err != nil {
		return nil, err
	}
	return Sample{
		cpuPerRequest: used.Seconds() * 1e6 / float64(requests), perSecond: float64(requests) / stats.Took.Seconds(),
		p50: ms(load.Quantile(stats.Each, 0.5)), p99: ms(load.Quantile(stats.Each, 0.99)),
	}, nil
}

// smallPath makes a small thing at the origin and returns its path.
func (s *Stand) smallPath(ctx context.Context, kind string) (string, error) {
	if kind == "config" {
		digest, err := s.Origin.Control.Blob(ctx, 2<<10)
		return blobPath(digest), err
	}
	tag := "small-" + kind
	image, err := s.newImage(ctx, tag)
	if kind == "tag" {
		return manifestPath(tag), err
	}
	return manifestPath(image.manifest), err
}

// setUps measures what a connection costs that is used once: CONNECT, TLS, one small answer. With hybrid the client offers
// a key exchange that withstands quantum computers too, which not every peer knows.
func setUps(workers, connections int, hybrid bool, primed []string) func(context.Context, *Stand) (Measure, error) {
	return func(ctx context.Context, s *Stand) (Measure, error) {
		path, err := s.smallPath(ctx, "config")
		if err != nil {
			return nil, err
		}
		if err := s.prime(ctx, primed, intercepted, path); err != nil {
			return nil, err
		}
		return func(ctx context.Context, column string) (Sample, error) {
			d := s.door(column, intercepted)
			if hybrid {
				d.TLS = d.TLS.Clone()
				d.TLS.CurvePreferences = nil // Go's own choice
			}
			var all time.Duration
			used, err := charge(d.Process, func() error {
				began := time.Now()
				err := load.Parallel(workers, connections, func(int) error { return once(ctx, d.Target, path) })
				all = time.Since(began)
				return err
			})
			if err != nil {
				return nil, err
			}
			return Sample{cpuPerConn: ms(used) / float64(connections), perSecond: float64(connections) / all.Seconds()}, nil
		}, nil
	}
}

// once makes a connection, gets one thing and closes it.
func once(ctx context.Context, target load.Target, path string) error {
	c, err := load.Dial(ctx, target, load.Options{})
	if err != nil {
		return err
	}
	_, err = c.Get(ctx, load.Request{Path: path})
	if err := c.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return err
}
