package app_test

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"
)

// logLines is a log as it is written.
type logLines struct {
	mu   sync.Mutex // guards the fields that follow
	text strings.Builder
	news chan struct{} // closed at the next line
}

func newLogLines() *logLines { return &logLines{news: make(chan struct{})} }

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.news)
	l.news = make(chan struct{})
	return l.text.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// line is one of the log, as far as these tests look.
type line struct {
	Level, Msg, Err                    string
	Method, Kind, Registry, Repository string
	Reference, Digest, Outcome, Client string
	CacheType                          string `json:"cache_type"`
	Status                             int
	Settings                           string
	Bytes                              int64
}

// lines are all so far. Each has to be JSON.
func (l *logLines) lines(t testing.TB) []line {
	t.Helper()
	var all []line
	for text := range strings.Lines(l.String()) {
		var parsed line
		if err := json.Unmarshal([]byte(text), &parsed); err != nil {
			t.Fatalf("line of the log is no JSON: %v: %s", err, text)
		}
		all = append(all, parsed)
	}
	return all
}

// requests are the access records.
func (l *logLines) requests(t testing.TB) []line {
	t.Helper()
	return filter(l.lines(t), func(l line) bool { return l.Msg == "request" })
}

func filter(lines []line, match func(line) bool) []line {
	var found []line
	for _, l := range lines {
		if match(l) {
			found = append(found, l)
		}
	}
	return found
}

// await returns the first line that matches, once it is there.
func (l *logLines) await(t testing.TB, match func(line) bool) line {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		l.mu.Lock()
		news := l.news
		l.mu.Unlock()
		if found := filter(l.lines(t), match); len(found) > 0 {
			return found[0]
		}
		select {
		case <-news:
		case <-timeout.C:
			t.Fatalf("no such line after %v; the log:\n%s", patience, l)
		}
	}
}
