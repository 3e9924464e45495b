package lines_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/lines"
)

// pipe notes the writes that reach it.
type pipe struct {
	mu     sync.Mutex
	writes []string
	fail   error
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return 0, p.fail
	}
	p.writes = append(p.writes, string(b))
	return len(b), nil
}

func (p *pipe) text() string { return strings.Join(p.writes, "") }

func write(t *testing.T, w io.Writer, line string) {
	t.Helper()
	if n, err := io.WriteString(w, line); n != len(line) || err != nil {
		t.Fatalf("Write = %d, %v, want %d, nil", n, err, len(line))
	}
}

func TestLinesLeaveTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{}
		w := lines.New(p)
		var want strings.Builder
		for i := range 100 {
			line := fmt.Sprintln("line", i)
			want.WriteString(line)
			write(t, w, line)
			if i == 0 && len(p.writes) != 1 {
				t.Error("the first line was held, want it to leave at once")
			}
		}
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		if p.text() != want.String() {
			t.Errorf("10 ms later the log is\n%s\nwant\n%s", p.text(), want.String())
		}
		if len(p.writes) != 2 {
			t.Errorf("100 lines within 10 ms left in %d writes, want 2", len(p.writes))
		}
		time.Sleep(10 * time.Millisecond)
		write(t, w, "after a pause\n")
		if len(p.writes) != 3 {
			t.Error("a line after a pause was held, want it to leave at once")
		}
	})
}

func TestWhatAPipeTakesLeavesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{}
		w := lines.New(p)
		line := strings.Repeat("x", 1023) + "\n"
		for range 1 + 61 { // one at once, then as many as fit
			write(t, w, line)
		}
		synctest.Wait()
		if last := len(p.writes[len(p.writes)-1]); len(p.writes) != 2 || last > 64<<10 || last < 56<<10 {
			t.Errorf("%d writes, the last of %d bytes, want 2 and nearly 65536", len(p.writes), last)
		}
		long := strings.Repeat("y", 100<<10) + "\n"
		write(t, w, long)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if want := strings.Repeat(line, 62) + long; p.text() != want {
			t.Errorf("the log has %d bytes, want the %d that were written", len(p.text()), len(want))
		}
	})
}

// stuck is a pipe that takes nothing until its reader reads.
type stuck struct {
	pipe
	taking, reads chan struct{}
}

func (s *stuck) Write(b []byte) (int, error) {
	s.taking <- struct{}{}
	<-s.reads
	return s.pipe.Write(b)
}

func TestSlowReaderHoldsUpNobodyWhileThereIsRoom(t *testing.T) {
	t.Parallel()
	p := &stuck{taking: make(chan struct{}, 100), reads: make(chan struct{})}
	w := lines.New(p)
	go w.Write([]byte("first\n")) // leaves at once
	<-p.taking
	time.Sleep(20 * time.Millisecond) // as long as a line waits for others, and more
	write(t, w, "second\n")
	for range 200 {
		write(t, w, strings.Repeat("x", 1023)+"\n")
	}
	full := make(chan struct{})
	go func() {
		defer close(full)
		for range 100 {
			_, _ = w.Write(bytes.Repeat([]byte("y"), 1<<10))
		}
	}()
	select {
	case <-full:
		t.Error("300 KiB are held, want their writer to wait for the reader")
	case <-time.After(50 * time.Millisecond):
	}
	close(p.reads)
	<-full
	if err := w.Flush(); err != nil || !strings.HasPrefix(p.text(), "first\nsecond\nx") || len(p.text()) != 13+300<<10 {
		t.Errorf("%v; the log has %d bytes and begins with %.30q", err, len(p.text()), p.text())
	}
}

func TestFlushSendsAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{}
		w := lines.New(p)
		write(t, w, "one\n")
		write(t, w, "two\n")
		if err := w.Flush(); err != nil || p.text() != "one\ntwo\n" {
			t.Errorf("after Flush, %v, the log is %q, want both lines", err, p.text())
		}
		time.Sleep(time.Second)
		if len(p.writes) != 2 {
			t.Errorf("%d writes, want 2: nothing was held any more", len(p.writes))
		}
	})
}

func TestErrorsAreReported(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken pipe")
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{fail: broken}
		w := lines.New(p)
		if _, err := io.WriteString(w, "lost\n"); !errors.Is(err, broken) {
			t.Errorf("Write = %v, want %v", err, broken)
		}
		write(t, w, "lost too\n") // held
		if err := w.Flush(); !errors.Is(err, broken) {
			t.Errorf("Flush = %v, want %v", err, broken)
		}
		p.fail = nil
		time.Sleep(time.Second)
		write(t, w, "whole\n")
		if p.text() != "whole\n" {
			t.Errorf("the log is %q, want the line that could be written", p.text())
		}
	})
}

func TestWritersDoNotMixTheirLines(t *testing.T) {
	t.Parallel()
	p := &pipe{}
	w := lines.New(p)
	var all sync.WaitGroup
	const writers, each = 8, 2000
	for i := range writers {
		all.Go(func() {
			line := bytes.Repeat([]byte{byte('a' + i)}, 100)
			line[99] = '\n'
			for range each {
				_, _ = w.Write(line) // the pipe takes everything
			}
		})
	}
	all.Wait()
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(p.text()) {
		if n++; len(line) != 100 || strings.Trim(line, line[:1]+"\n") != "" {
			t.Fatalf("line %q is of more than one writer", line)
		}
	}
	if n != writers*each {
		t.Errorf("%d lines, want %d", n, writers*each)
	}
}
