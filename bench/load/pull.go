package load

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// DialAll makes n connections, a few at a time. It returns those that could be made, and why others could not.
func DialAll(ctx context.Context, target Target, n int, options Options) ([]*Conn, error) {
	conns := make([]*Conn, n)
	err := Parallel(min(n, 8), n, func(i int) error {
		c, err := Dial(ctx, target, options)
		if err == nil {
			conns[i] = c
		}
		return err
	})
	return slices.DeleteFunc(conns, func(c *Conn) bool { return c == nil }), err
}

// CloseAll ends connections.
func CloseAll(conns []*Conn) {
	for _, c := range conns {
		_ = c.Close() // nothing is to be sent any more
	}
}

// Parallel calls do for 0 to n-1, workers at a time, and joins the errors, at most one of each worker, which ends with
// it.
func Parallel(workers, n int, do func(i int) error) error {
	errs := make([]error, workers)
	var next atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[w] = do(i); errs[w] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Stats sums many requests up.
type Stats struct {
	Requests int
	Bytes    int64
	Took     time.Duration   // from the first request to the last answer
	Each     []time.Duration // how long each request took, in order
	First    []time.Duration // until the first byte of each, in order
}

// Pull makes n requests, one after the other on each of the connections.
func Pull(ctx context.Context, conns []*Conn, n int, request func(i int) Request) (Stats, error) {
	s := Stats{Requests: n, Each: make([]time.Duration, n), First: make([]time.Duration, n)}
	var bytes atomic.Int64
	idle := make(chan *Conn, len(conns))
	for _, c := range conns {
		idle <- c
	}
	began := time.Now()
	err := Parallel(len(conns), n, func(i int) error {
		c := <-idle // there is one for each worker
		defer func() { idle <- c }()
		answer, err := c.Get(ctx, request(i))
		s.Each[i], s.First[i] = answer.Took, answer.First
		bytes.Add(answer.Bytes)
		return err
	})
	s.Took, s.Bytes = time.Since(began), bytes.Load()
	slices.Sort(s.Each)
	slices.Sort(s.First)
	return s, err
}

// Quantile is the value that the share q, from 0 to 1, of sorted values does not exceed.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
