package fill

import (
	"testing"
	"time"
)

// Connections are as many as pay, and never more than the limit, whatever number that is.
func TestTunerChooses(t *testing.T) {
	t.Parallel()
	const each = 10 << 20 // bytes a second
	for name, tt := range map[string]struct {
		limit  int
		origin func(conns int) int64 // bytes a second
		waits  float64               // for what part of the time a connection is waited for
		want   int
	}{
		"one connection is wanted":               {1, func(n int) int64 { return int64(n) * each }, 1, 1},
		"capped on each, two":                    {2, func(n int) int64 { return int64(n) * each }, 1, 2},
		"capped on each, three":                  {3, func(n int) int64 { return int64(n) * each }, 1, 3},
		"capped on each, eight":                  {8, func(n int) int64 { return int64(n) * each }, 1, 8},
		"capped on each, eleven":                 {11, func(n int) int64 { return int64(n) * each }, 1, 11},
		"capped in all":                          {8, func(int) int64 { return each }, 1, 1},
		"capped in all, where four reach it":     {8, func(n int) int64 { return min(int64(n), 4) * each }, 1, 4},
		"capped in all, where two reach it":      {3, func(n int) int64 { return min(int64(n), 2) * each }, 1, 2},
		"as fast as a core takes it":             {8, func(int) int64 { return 300e6 }, 1, 1},
		"capped on each, and we wait half":       {8, func(n int) int64 { return int64(n) * each }, 0.5, 8},
		"we are slower than the origin":          {8, func(int) int64 { return each }, 0.4, 1},
		"we take what several bring, and slowly": {8, func(n int) int64 { return int64(n) * each }, 0.4, 1},
		"third brings a fifth of what it may":    {3, func(n int) int64 { return []int64{each, 2 * each, 2*each + each/5}[n-1] }, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tn := newTuner(tt.limit)
			s := sample{left: 100 << 30}
			most := 1
			for i := range 200 {
				s.waited += time.Duration(tt.waits * float64(tunerPeriod) * float64(tn.connections()))
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
