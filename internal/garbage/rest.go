package garbage

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// restEvery is how often it is looked at whether the program is at rest.
	restEvery = 2 * time.Second
	// restful is how little a program allocates in that time that is at rest: who reads the metrics costs a megabyte.
	// Large answers may be on their way meanwhile, as their buffers are used again.
	restful = 2 << 20
	// worthwhile is how much there has to be to give back.
	worthwhile = 8 << 20
	// restAgain is how long what a next burst leaves is kept: where much is alive, to look for what is not takes time.
	restAgain = time.Minute
)

// rest gives the system back what a burst has left behind, soon after it. Go keeps it: it collects when as much again has
// been allocated, which a program at rest does not do, or two minutes later, and even then holds on to what it might need
// again. Five thousand clients that came and stay idle would keep twice their memory.
type rest struct {
	allocated uint64    // when it last looked
	burst     bool      // since it gave back
	kept      uint64    // what was alive then
	gave      time.Time // back
}

// watch looks until stop is closed.
func (r *rest) watch(stop <-chan struct{}) {
	ticker := time.NewTicker(restEvery)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			r.look(now)
		case <-stop:
			return
		}
	}
}

// look gives back what is worth it where little has been allocated since it last looked. What the collector has found
// alive in the midst of a burst says nothing of what is alive after it.
func (r *rest) look(now time.Time) {
	m := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(m)
	allocated, live, objects, free := m[0].Value.Uint64(), m[1].Value.Uint64(), m[2].Value.Uint64(), m[3].Value.Uint64()
	atRest := allocated-r.allocated < restful
	r.allocated = allocated
	r.burst = r.burst || !atRest
	if r.burst {
		live = min(live, r.kept)
	}
	if atRest && objects+free >= live+max(worthwhile, live/4) && now.Sub(r.gave) >= restAgain {
		r.gave, r.burst = now, false
		runtime.GC() // leaves what pools hold, unless nobody has taken it by the next one
		debug.FreeOSMemory()
		metrics.Read(m)
		r.kept = m[1].Value.Uint64()
	}
}
