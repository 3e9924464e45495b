package demo

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"container-registry-proxy/internal/oci"
)

// progress shows the layers of one pull as they come.
type progress interface {
	add(number int, desc oci.Descriptor) bar
	wait() // until everything is drawn
}

// bar is one layer; what is written to it has come.
type bar interface {
	io.Writer
	done(l layer, err error)
}

func newProgress(cfg Config) progress {
	if cfg.Bars {
		return &bars{mpb.New(mpb.WithOutput(cfg.Out), mpb.WithWidth(32), mpb.WithRefreshRate(80*time.Millisecond))}
	}
	return &plainLines{out: cfg.Out}
}

// bars draws on a terminal.
type bars struct{ *mpb.Progress }

func (b *bars) add(number int, desc oci.Descriptor) bar {
	l := &barLine{}
	l.bar = b.AddBar(desc.Size,
		mpb.PrependDecorators(decor.Name(name(number, desc.Digest))),
		mpb.AppendDecorators(decor.CountersKibiByte("% 8.1f / % 8.1f"), decor.Any(func(decor.Statistics) string {
			outcome, _ := l.outcome.Load().(string)
			return "  " + outcome
		})))
	return l
}

func (b *bars) wait() { b.Wait() }

type barLine struct {
	bar     *mpb.Bar
	outcome atomic.Value // of a string, once known
	written int64
}

func (l *barLine) Write(p []byte) (int, error) {
	// The last byte waits for done, which has the outcome that the finished bar shows.
	l.written += int64(len(p))
	l.bar.SetCurrent(l.written - 1)
	return len(p), nil
}

func (l *barLine) done(got layer, err error) {
	if err != nil {
		l.bar.Abort(false)
		return
	}
	l.outcome.Store(got.outcome)
	l.bar.SetCurrent(got.size)
}

// plainLines writes a line a layer, for pipes and logs.
type plainLines struct {
	mu  sync.Mutex // guards out
	out io.Writer
}

func (p *plainLines) add(number int, _ oci.Descriptor) bar { return &plainLine{p, number} }
func (p *plainLines) wait()                                {}

type plainLine struct {
	lines  *plainLines
	number int
}

func (l *plainLine) Write(p []byte) (int, error) { return len(p), nil }

func (l *plainLine) done(got layer, err error) {
	if err != nil {
		return // the pull says so
	}
	l.lines.mu.Lock()
	defer l.lines.mu.Unlock()
	fmt.Fprintf(l.lines.out, "%s %10s  %-4s  %s\n", name(l.number, got.digest), amount(got.size), got.outcome, seconds(got.time))
}

func name(number int, d oci.Digest) string {
	return fmt.Sprintf("  layer %d  %.19s", number, string(d))
}
