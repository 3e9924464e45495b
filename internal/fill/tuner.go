package fill

import "time"

const (
	// tunerPeriod is how often the number of connections is thought over: long enough to measure a rate, short enough
	// that an origin capped per connection sees four of them within two seconds.
	tunerPeriod = 300 * time.Millisecond
	// tunerWorth is how long the rest must still take for another connection to be worth its set-up.
	tunerWorth = time.Second
	// tunerGain is by how much doubling the connections must raise the rate to be done again.
	tunerGain = 1.3
)

// tuner chooses over how many connections a blob is fetched. It doubles them as long as that pays: an origin that caps
// each connection is asked over several, one that is as fast as the link, or done in a moment, over one.
type tuner struct {
	limit int // at most; below 2 means one

	at       time.Time // of the last tick
	received int64     // then
	doubled  bool      // since the last rate was taken
	rate     float64   // bytes a second before the last doubling
	conns    int
	settled  bool
}

// connections is how many are wanted at present.
func (t *tuner) connections() int { return max(t.conns, 1) }

// tick takes note of the progress at a time.
func (t *tuner) tick(now time.Time, received, left int64) {
	elapsed, news := now.Sub(t.at), received-t.received
	first := t.at.IsZero()
	t.at, t.received = now, received
	if first || t.settled || elapsed <= 0 {
		return
	}
	rate := float64(news) / elapsed.Seconds()
	if t.doubled {
		t.doubled = false // what was measured now has the new connections' set-up in it: measure once more
		return
	}
	if t.conns > 1 && rate < t.rate*tunerGain {
		t.settled = true
		return
	}
	if rate <= 0 || float64(left)/rate < tunerWorth.Seconds() || 2*t.connections() > t.limit {
		return
	}
	t.rate, t.conns, t.doubled = rate, 2*t.connections(), true
}
