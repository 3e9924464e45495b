package demo

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// pull is one pull of the image.
type pull struct {
	layers  []layer
	time    time.Duration
	fetched int64 // bytes that the registry sent during it
}

func (p pull) size() (total int64) {
	for _, l := range p.layers {
		total += l.size
	}
	return total
}

// outcomes counts how the layers were answered: "5 × HIT".
func (p pull) outcomes() string {
	var order []string
	count := map[string]int{}
	for _, l := range p.layers {
		if count[l.outcome]++; count[l.outcome] == 1 {
			order = append(order, l.outcome)
		}
	}
	for i, outcome := range order {
		order[i] = fmt.Sprintf("%d × %s", count[outcome], outcome)
	}
	return strings.Join(order, ", ")
}

// table sums up, and says what was saved.
func table(out io.Writer, pulls []pull) {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\tlayers\tanswered by the cache\tfrom the registry\ttime")
	for i, p := range pulls {
		fmt.Fprintf(w, "pull %d\t%s\t%s\t%s\t%s\n", i+1, amount(p.size()), p.outcomes(), amount(p.fetched), seconds(p.time))
	}
	_ = w.Flush() // to a terminal or a buffer; nothing is kept
	first, second := pulls[0], pulls[len(pulls)-1]
	fmt.Fprintf(out, "saved    %s and %s; the second pull fetched no layer\n",
		amount(first.fetched-second.fetched), seconds(first.time-second.time))
}

func amount(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
