package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// bars show the progress of several things at one time: a bar each on a terminal, else a line each at its end.
type bars struct {
	out   io.Writer
	mu    *sync.Mutex   // guards out
	drawn *mpb.Progress // nil: lines
}

func newBars(out io.Writer, terminal bool) bars {
	b := bars{out: out, mu: &sync.Mutex{}}
	if terminal {
		b.drawn = mpb.New(mpb.WithOutput(out), mpb.WithWidth(32), mpb.WithRefreshRate(80*time.Millisecond))
	}
	return b
}

// wait waits until all is drawn.
func (b bars) wait() {
	if b.drawn != nil {
		b.drawn.Wait()
	}
}

// bar is one of the things; what is written to it has come.
type bar struct {
	bars
	name  string
	total int64
	came  *atomic.Int64
	drawn *mpb.Bar
}

func (b bars) add(name string, total int64) *bar {
	one := &bar{bars: b, name: name, total: total, came: &atomic.Int64{}}
	if b.drawn != nil {
		one.drawn = b.drawn.AddBar(max(total, 1), mpb.PrependDecorators(decor.Name(name)), mpb.AppendDecorators(decor.CountersKibiByte("% 8.1f / % 8.1f")))
	}
	return one
}

func (b *bar) Write(p []byte) (int, error) {
	n := b.came.Add(int64(len(p)))
	if b.drawn != nil {
		b.drawn.SetCurrent(min(n, max(b.total, 1)-1)) // done has the last byte
	}
	return len(p), nil
}

func (b *bar) done(err error) {
	switch {
	case b.drawn != nil && err != nil:
		b.drawn.Abort(false)
	case b.drawn != nil:
		b.drawn.SetCurrent(max(b.total, 1))
	case err == nil:
		b.mu.Lock()
		defer b.mu.Unlock()
		fmt.Fprintf(b.out, "%s  %.1f MiB\n", b.name, float64(b.came.Load())/(1<<20))
	}
}
