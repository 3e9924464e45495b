// Package lines has the writer of the log. Its invariant: lines leave whole and in the order in which they were written,
// none more than [delay] after it was, and all before Flush returns; a line that follows a pause leaves at once.
//
// A busy proxy logs a line for each of thousands of requests a second. A system call for each is a fifteenth of what a
// small request costs; lines that leave together share one.
package lines

import (
	"io"
	"sync"
	"time"
)

const (
	// delay is how long a line may wait for others: less than anybody who watches a log would notice, and all that is
	// lost of it when the process is killed.
	delay = 10 * time.Millisecond
	// most is how much is held: what a pipe takes at once. Whoever writes more waits for the reader, as without it.
	most = 64 << 10
)

// Writer gathers lines. It is safe for concurrent use.
type Writer struct {
	out io.Writer

	mu    sync.Mutex // guards the fields that follow, and keeps writes in order: it is held while writing
	last  time.Time  // when something left
	held  []byte
	timer *time.Timer // sends what is held
}

// New returns a writer to out. Each Write to it is one or more whole lines.
func New(out io.Writer) *Writer {
	w := &Writer{out: out}
	w.mu.Lock() // the timer may fire before it is in its place
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(delay, func() { _ = w.Flush() }) // nobody is left to tell that the log cannot be written
	w.timer.Stop()
	return w
}

// Write takes p, and sends it at once where nothing has left for a while. An error is one of out, and may be about lines
// that were written before.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.held) == 0 && time.Since(w.last) >= delay {
		w.last = time.Now()
		return w.out.Write(p)
	}
	if len(w.held)+len(p) > most {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	if len(w.held) == 0 {
		w.timer.Reset(delay)
	}
	w.held = append(w.held, p...)
	return len(p), nil
}

// Flush sends what is held.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flush()
}

// flush is Flush. The caller holds mu.
func (w *Writer) flush() error {
	w.timer.Stop()
	if len(w.held) == 0 {
		return nil
	}
	w.last = time.Now()
	_, err := w.out.Write(w.held)
	w.held = w.held[:0]
	return err
}
