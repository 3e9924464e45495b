// Package garbage keeps Go's collector from running more often than memory needs, and has it run once after a burst. Its
// invariant: what the program takes beyond Go's own rule, twice of what is alive, is less than the floor, and nothing
// where that much is alive; at rest it takes little more than what is alive.
//
// A proxy that answers from the cache has a megabyte alive. Go would collect whenever it holds four: many times a second
// while it is busy, each time with all stacks made small, to grow again at the next request.
package garbage

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// usual is what GOGC is where nobody sets it.
const usual = 100

// Floor has the collector leave a heap in peace that is below floor bytes, and gives memory back when the program is at
// rest, until the returned function is called. It does nothing where the environment has GOGC, which is the operator's
// choice. There is one floor in a process.
func Floor(floor uint64) (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	f := &floored{floor: floor, percent: usual}
	f.collected()
	stopped := make(chan struct{})
	go new(rest).watch(stopped)
	return func() {
		close(stopped)
		f.stopped.Store(true)
		debug.SetGCPercent(usual)
	}
}

type floored struct {
	floor   uint64
	percent int
	stopped atomic.Bool
}

// mark is what is garbage at once: the collector has run when it is gone. It holds a pointer, as Go may keep what has none
// together with something that lives.
type mark struct{ _ *byte }

// collected is called after each collection: it sets when the next one is due.
func (f *floored) collected() {
	if f.stopped.Load() {
		return
	}
	if percent := percentFor(f.floor, alive()); percent < f.percent*9/10 || percent > f.percent*11/10 {
		f.percent = percent
		debug.SetGCPercent(percent) // it stops all for a moment, so it is called when that changes something alone
	}
	runtime.AddCleanup(&mark{}, (*floored).collected, f)
}

// least is the heap that Go leaves in peace itself at the usual percentage; it grows in proportion.
const least = 4 << 20

// percentFor is the growth, in per cent of what is alive, at which that has reached the floor.
func percentFor(floor, alive uint64) int {
	if alive >= floor/2 {
		return usual
	}
	return int(min(floor*usual/least, (floor-alive)*100/max(alive, 1)))
}

// alive is how many bytes the last collection has found in use.
func alive() uint64 {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(samples)
	var sum uint64
	for _, s := range samples {
		sum += s.Value.Uint64()
	}
	return sum
}
