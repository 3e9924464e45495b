package freshness

import (
	"fmt"
	"strings"
	"time"

	"github.com/dlclark/regexp2"
	"github.com/maypok86/otter/v2"
)

const (
	// matchTimeout bounds one match by an engine that backtracks: a stranger chooses the text. The engine looks at its
	// clock ten times a second and counts an extra tick, so that a match ends within 300 ms.
	matchTimeout = 90 * time.Millisecond
	// turnTimeout bounds the wait for another match.
	turnTimeout = 300 * time.Millisecond
	// maxMemo bounds the answers that are remembered of a pattern, so that each text costs a match once.
	maxMemo = 16 << 10
)

// backtracking matches what RE2 cannot. A match that takes too long, and one that would have to wait as long for others,
// counts as none. At most one match of a pattern runs at a time, so that no stranger can take more than one core.
type backtracking struct {
	pattern *regexp2.Regexp
	turn    chan struct{}
	memo    *otter.Cache[string, *answer]
}

// answer is what a match came to.
type answer struct{ matches bool }

// compilePCRE compiles a pattern that RE2 refuses.
func compilePCRE(prefix, written string) (matcher, error) {
	pattern, err := regexp2.Compile(prefix+written, regexp2.None)
	if err != nil {
		text := strings.ReplaceAll(err.Error(), prefix+written, written)
		return nil, fmt.Errorf("pattern %q: %s; a right one is (stable|nightly)", written, strings.TrimPrefix(text, "error parsing regexp: "))
	}
	pattern.MatchTimeout = matchTimeout
	return &backtracking{
		pattern: pattern, turn: make(chan struct{}, 1), memo: otter.Must(&otter.Options[string, *answer]{MaximumSize: maxMemo}),
	}, nil
}

func (b *backtracking) MatchString(s string) bool {
	if known, ok := b.memo.GetIfPresent(s); ok {
		return known.matches
	}
	timer := time.NewTimer(turnTimeout)
	defer timer.Stop()
	select {
	case b.turn <- struct{}{}:
	case <-timer.C:
		return false
	}
	defer func() { <-b.turn }()
	if known, ok := b.memo.GetIfPresent(s); ok {
		return known.matches
	}
	matches, err := b.pattern.MatchString(s)
	matches = matches && err == nil // the error says that it took too long
	b.memo.Set(s, &answer{matches})
	return matches
}
