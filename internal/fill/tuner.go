package fill

import "time"

const (
	// tunerPeriod is how often the rate is taken. Two periods alike make a measurement, so that an origin capped per
	// connection sees four connections within two seconds, and one whose rate still grows is let grow.
	tunerPeriod = 100 * time.Millisecond
	// tunerWorth is how long the rest must still take for another connection to be worth its set-up.
	tunerWorth = time.Second
	// tunerLeast is how much must be left for that.
	tunerLeast = 4 << 20
	// tunerGain is what part of its share of the rate each new connection must bring for more of them to be made.
	tunerGain = 0.3
	// tunerGrowth is by how much two periods may differ and be alike.
	tunerGrowth = 1.25
	// tunerWaits is for which part of the time connections must keep us waiting for more of them to be made: where it is we
	// who are slow, more bring nothing, and what is on its way when one of them ends is lost.
	tunerWaits = 0.85
	// tunerFast is a rate, in bytes a second, that we could hardly take more of: it takes a core to receive, hash and
	// send on.
	tunerFast = 250e6
	// A connection is asked for as much as it brings in runShortest at least and in runLongest at most: less, and the
	// requests cost more than they bring; more, and readers wait for the beginning while the end comes.
	runShortest = 500 * time.Millisecond
	runLongest  = 4 * time.Second
)

// tuner chooses over how many connections a blob is fetched. It doubles them, up to its limit, as long as that pays: an origin that caps
// each connection is asked over several, one that is as fast as the link, or done in a moment, over one.
type tuner struct {
	limit int // at most; below 2 means one

	at       time.Time     // of the last tick
	received int64         // then
	waited   time.Duration // then
	previous float64       // the rate of the period before, 0 if there is none to compare with
	starting bool          // at the last tick connections had not delivered yet

	conns   int
	fewer   int           // that there were before conns, until those are judged; 0 otherwise
	steady  time.Duration // for how long all connections have delivered, together
	waiting time.Duration // how long they have been waited for in that time
	rate    float64       // bytes a second, as last measured
	left    int64
	settled bool
}

func newTuner(limit int) tuner {
	return tuner{limit: limit, at: time.Now(), conns: 1, settled: limit < 2}
}

// connections is how many are wanted at present.
func (t *tuner) connections() int { return t.conns }

// run is for how many bytes a connection is asked where there are several.
func (t *tuner) run() int64 {
	each := t.rate / float64(t.conns)
	return max(min(t.left/int64(t.conns), int64(each*runLongest.Seconds())), int64(each*runShortest.Seconds()))
}

// tick takes note of the progress at a time.
func (t *tuner) tick(now time.Time, s sample) {
	elapsed, news := now.Sub(t.at), s.received-t.received
	if elapsed < tunerPeriod/2 {
		return
	}
	unsteady := t.starting || s.starting > 0 || s.working < t.conns
	t.at, t.received, t.starting, t.left = now, s.received, s.starting > 0, s.left
	rate, previous := float64(news)/elapsed.Seconds(), t.previous
	t.previous = rate
	if unsteady {
		t.previous = 0
	} else {
		t.steady += elapsed * time.Duration(s.working)
		t.waiting += s.waited - t.waited
	}
	t.waited = s.waited
	if t.settled || previous == 0 || rate <= 0 || rate > previous*tunerGrowth || unsteady {
		return
	}
	t.judge((rate + previous) / 2)
	t.previous = 0
}

// judge decides on a measured rate.
func (t *tuner) judge(rate float64) {
	if t.fewer > 0 && rate < t.rate*(1+tunerGain*float64(t.conns-t.fewer)/float64(t.fewer)) {
		t.conns, t.settled = t.fewer, true
		return
	}
	t.fewer, t.rate = 0, rate
	switch {
	case t.conns >= t.limit:
		t.settled = true
	case float64(t.left) < rate*tunerWorth.Seconds(), t.left < tunerLeast, rate >= tunerFast:
	case !t.waits():
		t.steady, t.waiting = t.steady/2, t.waiting/2 // what was once so is to count less and less
	default:
		t.fewer, t.conns = t.conns, min(2*t.conns, t.limit)
		t.steady, t.waiting = 0, 0
	}
}

// waits reports whether the connections are what is short.
func (t *tuner) waits() bool { return float64(t.waiting) >= tunerWaits*float64(t.steady) }
