package rows

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// whileBusy does the work and returns what share of the machine's processors was busy meanwhile, by whomever: near 1, who
// takes less of them is done sooner by as much, and nothing else helps. The system counts hundredths of a second.
func whileBusy(work func() error) (share float64, err error) {
	before, err := readJiffies()
	if err != nil {
		return 0, err
	}
	if err := work(); err != nil {
		return 0, err
	}
	after, err := readJiffies()
	all := after.all - before.all
	if err != nil || all == 0 {
		return 0, err
	}
	return 1 - float64(after.idle-before.idle)/float64(all), nil
}

// jiffies are what the processors have spent since the machine started.
type jiffies struct{ all, idle uint64 }

// readJiffies reads the first line of /proc/stat (proc_stat(5)).
func readJiffies() (j jiffies, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return j, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	const idle, wait, last = 4, 5, 8 // up to steal; guests' time is part of user time
	for i, field := range strings.Fields(line) {
		if i == 0 || i > last {
			continue
		}
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return j, fmt.Errorf("/proc/stat: %q: %w", line, err)
		}
		j.all += n
		if i == idle || i == wait {
			j.idle += n
		}
	}
	return j, nil
}
