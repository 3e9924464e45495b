package garbage

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

var kept, dropped []byte

// due returns the size of the heap at which the collector runs next, once that is between least and most, or what it is
// after a minute.
func due(least, most uint64) uint64 {
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		runtime.GC() // what it sets for the next one is in force a moment later
		var m runtime.MemStats
		if runtime.ReadMemStats(&m); least <= m.NextGC && m.NextGC <= most || time.Now().After(end) {
			return m.NextGC
		}
	}
}

// It is not parallel, nor are others in this package: there is one collector.
func TestASmallHeapIsLeftInPeace(t *testing.T) {
	t.Setenv("GOGC", "")
	stop := Floor(32 << 20)
	with := due(28<<20, 36<<20)
	stop()
	without := due(0, 12<<20)
	if with < 28<<20 || with > 36<<20 || without > 12<<20 {
		t.Errorf("a heap of a megabyte is collected at %d MiB with the floor and %d without, want 32 and 12 at most", with>>20, without>>20)
	}
}

func TestALargeHeapIsCollectedAsEver(t *testing.T) {
	t.Setenv("GOGC", "")
	kept = make([]byte, 32<<20)
	defer func() { kept = nil }()
	stop := Floor(32 << 20)
	with := due(60<<20, 72<<20)
	stop()
	if with < 60<<20 || with > 72<<20 {
		t.Errorf("a heap of 33 MiB is collected at %d MiB, want twice that", with>>20)
	}
	runtime.KeepAlive(kept)
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

// Nothing says that there is much to give back: the collector has run while all of it was in use.
func TestWhatWasAliveInABurstIsGivenBackAtRest(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	debug.FreeOSMemory()
	before := held()
	var r rest
	r.look(time.Now())
	kept = make([]byte, 64<<20)
	runtime.GC()
	kept = nil
	r.look(time.Now())
	if r.look(time.Now()); held() > before+8<<20 {
		t.Errorf("%d MiB are held at rest, %d were before", held()>>20, before>>20)
	}
}

// What is alive is known once it has been collected: a small burst is no reason to do so again.
func TestMuchThatIsAliveIsNotCollectedEachMinute(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	kept = make([]byte, 64<<20)
	defer func() { kept = nil }()
	now := time.Now()
	var r rest
	r.look(now)
	r.look(now)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	dropped = make([]byte, 4<<20)
	dropped = nil
	r.look(now.Add(restAgain))
	r.look(now.Add(restAgain))
	if runtime.ReadMemStats(&after); after.NumGC != before.NumGC {
		t.Error("it was collected for 4 MiB")
	}
	runtime.KeepAlive(kept)
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
