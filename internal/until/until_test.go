package until_test

import (
	"testing"
	"time"

	"container-registry-proxy/internal/until"
)

func TestMembersLeaveByThemselves(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		after time.Duration
		want  bool
	}{
		"at once":                {0, true},
		"before its time is up":  {time.Minute - 1, true},
		"when its time is up":    {time.Minute, false},
		"after the clock is set": {-1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := start
			s := until.New[string](func() time.Time { return now }, 10)
			s.Add("a", time.Minute)
			now = start.Add(tt.after)
			if got := s.Has("a"); got != tt.want {
				t.Errorf("Has = %t, want %t", got, tt.want)
			}
			now = start
			if got := s.Has("a"); got != tt.want {
				t.Errorf("Has = %t when the clock is back, want %t: who has left does not return", got, tt.want)
			}
			if got := s.Empty(); got == tt.want {
				t.Errorf("Empty = %t, want %t", got, !tt.want)
			}
		})
	}
}

func TestAddAgainAndRemove(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := until.New[string](func() time.Time { return now }, 10)
	s.Add("a", time.Minute)
	now = now.Add(30 * time.Second)
	s.Add("a", time.Minute)
	now = now.Add(45 * time.Second)
	if !s.Has("a") {
		t.Error("a member that was added again has left at its first time")
	}
	s.Remove("a")
	s.Remove("b")
	if s.Has("a") || !s.Empty() {
		t.Error("a member that was removed is there")
	}
}

func TestSetIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := until.New[int](func() time.Time { return now }, 3)
	for i := range 3 {
		s.Add(i, time.Minute)
	}
	s.Add(2, time.Minute) // is one already
	if !s.Has(0) {
		t.Error("a full set forgot its members for one that it had")
	}
	s.Add(3, time.Minute)
	if s.Has(0) || s.Has(2) || !s.Has(3) {
		t.Error("a set of three has four members, or not the last")
	}
}
