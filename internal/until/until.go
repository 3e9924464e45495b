// Package until has sets whose members leave by themselves. Its invariant: no member stays longer than its period,
// whatever the clock does, and a set never has more members than it was made for.
package until

import (
	"sync"
	"time"
)

// Set is a set of what is true for a while. It is safe for concurrent use.
type Set[K comparable] struct {
	now  func() time.Time
	most int

	mu      sync.Mutex // guards members
	members map[K]span
}

// span is when a member is one.
type span struct{ from, to time.Time }

// New returns an empty set of at most so many members by a clock. One that is full forgets all, so it is for what may be
// forgotten.
func New[K comparable](now func() time.Time, most int) *Set[K] {
	return &Set[K]{now: now, most: most, members: map[K]span{}}
}

// Add has a member for a period from now.
func (s *Set[K]) Add(member K, period time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.members[member]; !ok && len(s.members) >= s.most {
		clear(s.members)
	}
	now := s.now()
	s.members[member] = span{now, now.Add(period)}
}

// Remove takes a member out before its time.
func (s *Set[K]) Remove(member K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.members, member)
}

// Has reports whether a member is in the set.
func (s *Set[K]) Has(member K) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	when, ok := s.members[member]
	if !ok {
		return false
	}
	if now := s.now(); !now.Before(when.from) && now.Before(when.to) {
		return true
	}
	delete(s.members, member)
	return false
}

// Empty reports whether the set certainly has no members: some of those that it still holds may be past their time.
func (s *Set[K]) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.members) == 0
}
