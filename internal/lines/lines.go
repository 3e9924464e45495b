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
	// enough is how much leaves before the delay is over: what a pipe takes at once, less a line.
	enough = 60 << 10
	// most is how much is held. Whoever adds to more waits for the reader, as without it.
	most = 4 * enough
)

// Writer gathers lines. It is safe for concurrent use: while some lines are being written, others are gathered, so that
// only those wait for a slow reader who come when there is no room.
type Writer struct {
	out io.Writer

	sending sync.Mutex // held while lines are on their way, which keeps them in order; taken before mu
	sent    []byte     // what was sent last, whose memory is used again

	mu      sync.Mutex // guards the fields that follow
	leaving bool       // lines are on their way
	last    time.Time  // when some left
	held    []byte
	timer   *time.Timer // sends what is held
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
	if w.hold(p) {
		if err := w.Flush(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// hold takes p, and reports whether it is time to send what is held.
func (w *Writer) hold(p []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := len(w.held) == 0
	w.held = append(w.held, p...)
	switch {
	case len(w.held) > most, first && !w.leaving && time.Since(w.last) >= delay:
		return true
	case first:
		w.timer.Reset(delay)
	case len(w.held) > enough && len(w.held)-len(p) <= enough:
		w.timer.Reset(0)
	}
	return false
}

// Flush sends what is held.
func (w *Writer) Flush() error {
	w.sending.Lock()
	defer w.sending.Unlock()
	lines := w.take()
	if len(lines) == 0 {
		return nil
	}
	_, err := w.out.Write(lines)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leaving = false
	return err
}

// take returns what is held, for the caller to send.
func (w *Writer) take() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	if len(w.held) == 0 {
		return nil
	}
	w.leaving, w.last = true, time.Now()
	w.held, w.sent = w.sent[:0], w.held
	return w.sent
}
