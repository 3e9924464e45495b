package fill

import (
	"testing"
	"time"
)

// Connections are as many as pay, and never more than the limit, whatever number that is.
func TestTunerChooses(t *testing.T) {
	t.Parallel()
	const each = 10 << 20 // bytes a second
	always := func(int) float64 { return 1 }
	for name, tt := range map[string]struct {
		limit  int
		origin func(conns int) int64   // bytes a second
		waits  func(conns int) float64 // for what part of the time a connection is waited for
		want   int
	}{
		"one connection is wanted":            {1, func(n int) int64 { return int64(n) * each }, always, 1},
		"capped on each, two":                 {2, func(n int) int64 { return int64(n) * each }, always, 2},
		"capped on each, three":               {3, func(n int) int64 { return int64(n) * each }, always, 3},
		"capped on each, eight":               {8, func(n int) int64 { return int64(n) * each }, always, 8},
		"capped on each, eleven":              {11, func(n int) int64 { return int64(n) * each }, always, 11},
		"capped in all":                       {8, func(int) int64 { return each }, always, 1},
		"capped in all, where four reach it":  {8, func(n int) int64 { return min(int64(n), 4) * each }, always, 4},
		"capped in all, where two reach it":   {3, func(n int) int64 { return min(int64(n), 2) * each }, always, 2},
		"as fast as a core takes it":          {8, func(int) int64 { return 300e6 }, always, 1},
		"third brings a fifth of what it may": {3, func(n int) int64 { return []int64{each, 2 * each, 2*each + each/5}[n-1] }, always, 2},
		"we are a little slow":                {8, func(n int) int64 { return int64(n) * each }, func(int) float64 { return 0.9 }, 8},
		"we are slower than the origin":       {8, func(n int) int64 { return int64(n) * each }, func(int) float64 { return 0.8 }, 1},
		"we are slower than two connections":  {8, func(n int) int64 { return int64(n) * each }, func(n int) float64 { return 1 - 0.3*float64(n-1) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tn := newTuner(tt.limit)
			s := sample{left: 100 << 30}
			most := 1
			for i := range 200 {
				s.waited += time.Duration(tt.waits(tn.connections()) * float64(tunerPeriod) * float64(tn.connections()))
				news := tt.origin(tn.connections()) / 10 // in a period
				s.received, s.left, s.working = s.received+news, s.left-news, tn.connections()
				tn.tick(tn.at.Add(tunerPeriod), s)
				if most = max(most, tn.connections()); most > tt.limit {
					t.Fatalf("%d connections in period %d, want %d at most", most, i, tt.limit)
				}
			}
			if got := tn.connections(); got != tt.want {
				t.Errorf("%d connections, want %d", got, tt.want)
			}
		})
	}
}

// What has kept us from growing at first is forgotten, though not at once.
func TestTunerForgets(t *testing.T) {
	t.Parallel()
	const each = 10 << 20
	tn := newTuner(8)
	s := sample{left: 100 << 30}
	run := func(periods int, waits float64) {
		for range periods {
			news := int64(tn.connections()) * each / 10
			s.received, s.left, s.working = s.received+news, s.left-news, tn.connections()
			s.waited += time.Duration(waits * float64(tunerPeriod) * float64(tn.connections()))
			tn.tick(tn.at.Add(tunerPeriod), s)
		}
	}
	if run(600, 0.5); tn.connections() != 1 {
		t.Fatalf("%d connections while we are slow, want 1", tn.connections())
	}
	if run(30, 1); tn.connections() < 2 {
		t.Error("three seconds after a slow minute there is one connection, want more")
	}
}
