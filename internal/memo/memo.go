// Package memo remembers answers that depend on nothing but their question. Its invariant: an answer is the function's, and
// no more than a given number are kept, whoever chooses the questions.
package memo

import "sync"

// Memo is a function whose answers are remembered. It is safe for concurrent use; the function may be called for the same
// question more than once.
type Memo[Q comparable, A any] struct {
	most   int
	keep   func(Q) Q
	answer func(Q) A

	mu    sync.RWMutex // guards known
	known map[Q]A
}

// New returns a memo of a function that keeps at most so many answers, and begins anew when there are more. keep returns an
// equal question that may be kept: one whose text is no part of a request, all of which would be kept with it.
func New[Q comparable, A any](most int, keep func(Q) Q, answer func(Q) A) *Memo[Q, A] {
	return &Memo[Q, A]{most: most, keep: keep, answer: answer, known: map[Q]A{}}
}

// Of returns the answer to a question.
func (m *Memo[Q, A]) Of(question Q) A {
	m.mu.RLock()
	answer, ok := m.known[question]
	m.mu.RUnlock()
	if ok {
		return answer
	}
	answer = m.answer(question)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.known) >= m.most {
		clear(m.known)
	}
	m.known[m.keep(question)] = answer
	return answer
}
