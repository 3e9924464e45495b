package memo_test

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"container-registry-proxy/internal/memo"
)

func same(n int) int { return n }

func TestAnswersAreRemembered(t *testing.T) {
	t.Parallel()
	asked := 0
	m := memo.New(3, same, func(n int) string { asked++; return strconv.Itoa(n) })
	for range 2 {
		for n := range 3 {
			if got := m.Of(n); got != strconv.Itoa(n) {
				t.Errorf("of %d: %q", n, got)
			}
		}
	}
	if asked != 3 {
		t.Errorf("the function was asked %d times for 3 questions", asked)
	}
}

// A stranger who asks ever new questions gets answers, and does not fill the memory.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const most = 10
	asked := 0
	m := memo.New(most, same, func(n int) int { asked++; return -n })
	for n := range 10 * most {
		if got := m.Of(n); got != -n {
			t.Fatalf("of %d: %d", n, got)
		}
	}
	asked = 0
	for n := range 10 * most {
		m.Of(n)
	}
	if asked < 9*most {
		t.Errorf("%d of %d answers were remembered, want at most %d", 10*most-asked, 10*most, most)
	}
}

func TestConcurrentQuestions(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	m := memo.New(5, same, func(n int) int { asked.Add(1); return n * n })
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for n := range 1000 {
				if got := m.Of(n % 7); got != (n%7)*(n%7) {
					t.Errorf("of %d: %d", n%7, got)
				}
			}
		})
	}
	all.Wait()
	if asked.Load() < 7 {
		t.Errorf("asked %d times for 7 questions", asked.Load())
	}
}

// What is kept is what keep returns, once for each question that is new.
func TestQuestionsAreKeptAsTold(t *testing.T) {
	t.Parallel()
	var kept []string
	m := memo.New(10, func(q string) string { kept = append(kept, q); return strings.Clone(q) }, func(q string) int { return len(q) })
	request := "a bb a bb"
	for _, q := range strings.Fields(request) {
		if got := m.Of(q); got != len(q) {
			t.Errorf("of %q: %d", q, got)
		}
	}
	if !slices.Equal(kept, []string{"a", "bb"}) {
		t.Errorf("keep was called with %q, want each question once", kept)
	}
}
