package garbage

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

var kept, dropped []byte

// collections is how often the collector runs while n MiB are made and forgotten.
func collections(n int) uint32 {
	runtime.GC()
	runtime.GC() // what the first has set is in force
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n << 10 {
		dropped = make([]byte, 1<<10)
	}
	runtime.ReadMemStats(&after)
	return after.NumGC - before.NumGC
}

// It is not parallel, nor are others in this package: there is one collector.
func TestASmallHeapIsLeftInPeace(t *testing.T) {
	t.Setenv("GOGC", "")
	stop := Floor(32 << 20)
	few := collections(64)
	stop()
	many := collections(64)
	if few == 0 || few*3 > many {
		t.Errorf("%d collections with the floor and %d without, want one at least and a third at most", few, many)
	}
}

func TestALargeHeapIsCollectedAsEver(t *testing.T) {
	t.Setenv("GOGC", "")
	kept = make([]byte, 32<<20)
	defer func() { kept = nil }()
	stop := Floor(32 << 20)
	with := collections(64)
	stop()
	if without := collections(64); with+1 < without {
		t.Errorf("%d collections with the floor and %d without, want as many", with, without)
	}
}

func TestTheOperatorsChoiceStays(t *testing.T) {
	t.Setenv("GOGC", "50")
	before := debug.SetGCPercent(50)
	defer debug.SetGCPercent(before)
	defer Floor(32 << 20)()
	runtime.GC()
	runtime.GC()
	if got := debug.SetGCPercent(50); got != 50 {
		t.Errorf("GOGC=50 became %d", got)
	}
}

// held is what the system has given the heap and not got back.
func held() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapSys - m.HeapReleased
}

func TestWhatABurstLeavesIsGivenBackAtRest(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // nobody else collects
	debug.FreeOSMemory()
	before := held()
	now := time.Now()
	var r rest
	r.look(now)
	burst := func() {
		for range 64 {
			dropped = make([]byte, 1<<20)
		}
		dropped = nil
	}
	burst()
	if r.look(now); held() < before+48<<20 {
		t.Error("what is left was given back in the midst of it")
	}
	if r.look(now); held() > before+8<<20 {
		t.Errorf("%d MiB are held at rest, %d were before", held()>>20, before>>20)
	}
	burst()
	r.look(now)
	if r.look(now.Add(restAgain - 1)); held() < before+48<<20 {
		t.Error("it was collected twice in a minute")
	}
	if r.look(now.Add(restAgain)); held() > before+8<<20 {
		t.Errorf("%d MiB are held a minute later, %d were before", held()>>20, before>>20)
	}
}

// It looks by itself, as long as there is a floor.
func TestTheFloorLooksForRest(t *testing.T) {
	t.Setenv("GOGC", "")
	debug.FreeOSMemory()
	before := held()
	defer Floor(256 << 20)()
	for range 64 {
		dropped = make([]byte, 1<<20)
	}
	dropped = nil
	for end := time.Now().Add(time.Minute); held() > before+16<<20; time.Sleep(restEvery / 10) {
		if time.Now().After(end) {
			t.Fatalf("%d MiB are held at rest, %d were before", held()>>20, before>>20)
		}
	}
}

func TestNothingIsCollectedAtRestForLittle(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	debug.FreeOSMemory()
	var r rest
	r.look(time.Now())
	dropped = make([]byte, 4<<20)
	dropped = nil
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r.look(time.Now())
	r.look(time.Now())
	if runtime.ReadMemStats(&after); after.NumGC != before.NumGC {
		t.Error("it was collected for 4 MiB")
	}
}

func TestPercentFor(t *testing.T) {
	for _, test := range []struct {
		floor, alive uint64
		want         int
	}{
		{32 << 20, 1 << 20, 800},
		{32 << 20, 4 << 20, 700},
		{32 << 20, 8 << 20, 300},
		{32 << 20, 16 << 20, 100},
		{32 << 20, 1 << 30, 100},
		{32 << 20, 0, 800},
	} {
		if got := percentFor(test.floor, test.alive); got != test.want {
			t.Errorf("%d alive of %d: %d, want %d", test.alive, test.floor, got, test.want)
		}
	}
}
