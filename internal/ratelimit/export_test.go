package ratelimit

// Kept is how many cool-downs and readings there are.
func (w *Watch) Kept() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.cooling) + len(w.readings)
}
