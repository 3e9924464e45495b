// Package report prints what the benchmark measured: a table of what was to be reached, one of the figures behind it,
// and the same as JSON. Its invariant: every claim of every row that was asked for has a line, with a verdict or the
// reason why there is none.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"container-registry-proxy/bench/rows"
)

// Report is one run.
type Report struct {
	Command string // that repeats it
	Commit  string
	Scale   string
	Began   time.Time
	Took    time.Duration
	Machine Machine
	Rows    []*rows.Result
}

// Machine is what it ran on.
type Machine struct {
	CPU    string
	Cores  int
	Kernel string
	Go     string
	// Load is the load average when the run began: what else the machine had to do.
	Load string
}

// ThisMachine describes this one.
func ThisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Kernel: firstLine("/proc/sys/kernel/osrelease")}
	if fields := strings.Fields(firstLine("/proc/loadavg")); len(fields) > 0 {
		m.Load = fields[0]
	}
	data, _ := os.ReadFile("/proc/cpuinfo") // where it cannot be read the name stays empty
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			m.CPU = strings.TrimSpace(strings.TrimLeft(name, "\t: "))
			break
		}
	}
	return m
}

func firstLine(name string) string {
	data, _ := os.ReadFile(name) // where it cannot be read the line is empty
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

// Verdicts.
const (
	reached = "reached"
	missed  = "missed"
	absent  = "not measured"
)

// Write prints the run for people.
func (r *Report) Write(w io.Writer) error {
	m := r.Machine
	fmt.Fprintf(w, "%s\n%s, %d cores, Linux %s, %s, load %s; commit %s; took %s\n\n",
		r.Command, m.CPU, m.Cores, m.Kernel, m.Go, m.Load, r.Commit, r.Took.Round(time.Second))
	if err := r.writeClaims(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return r.writeFigures(w)
}

// writeClaims prints what was to be reached.
func (r *Report) writeClaims(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "row\tmetric\tagainst\tto reach\tmeasured\tspread\tverdict")
	counts := map[string]int{}
	var reasons []string
	for _, row := range r.Rows {
		for _, o := range row.Claims {
			measured, spread, verdict := Number(o.Median), "", missed
			switch {
			case o.Absent != "":
				measured, verdict = "-", absent
				reasons = append(reasons, row.Name+": "+o.Absent)
			case o.Reached:
				verdict = reached
			}
			if o.Rounds > 1 {
				spread = Number(o.Min) + " to " + Number(o.Max)
			}
			counts[verdict]++
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Name, what(o.Claim), against(o.Claim), o.Claim.Bound(), measured, spread, verdict)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%d reached, %d missed, %d not measured\n", counts[reached], counts[missed], counts[absent])
	for _, reason := range slices.Compact(reasons) {
		fmt.Fprintln(w, "not measured:", reason)
	}
	return nil
}

func what(c rows.Claim) string {
	if c.Of != "" && c.Of != rows.Ours {
		return c.What + " (" + c.Of + ")"
	}
	return c.What
}

func against(c rows.Claim) string {
	switch {
	case c.Over != "":
		return "× " + c.Over
	case c.Minus != "":
		return "− " + c.Minus
	}
	return ""
}

// writeFigures prints the medians of all columns.
func (r *Report) writeFigures(w io.Writer) error {
	for _, row := range r.Rows {
		fmt.Fprintf(w, "%s: %s\n", row.Name, row.Title)
		metrics := metricsOf(row)
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "  column\t"+strings.Join(metrics, "\t"))
		for _, column := range slices.Sorted(maps.Keys(row.Samples)) {
			fmt.Fprint(t, "  "+column)
			for _, metric := range metrics {
				fmt.Fprint(t, "\t"+median(row.Samples[column], metric))
			}
			fmt.Fprintln(t)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for _, column := range slices.Sorted(maps.Keys(row.Errors)) {
			fmt.Fprintf(w, "  %s: %s\n", column, row.Errors[column])
		}
	}
	return nil
}

// metricsOf are the names of all that was measured in a row.
func metricsOf(row *rows.Result) []string {
	seen := map[string]bool{}
	for _, samples := range row.Samples {
		for _, sample := range samples {
			for metric := range sample {
				seen[metric] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

func median(samples []rows.Sample, metric string) string {
	var values []float64
	for _, sample := range samples {
		if value, ok := sample[metric]; ok {
			values = append(values, value)
		}
	}
	if len(values) == 0 {
		return "-"
	}
	slices.Sort(values)
	return Number(rows.Median(values))
}

// Number is a figure with as many digits as it deserves.
func Number(v float64) string {
	switch {
	case v >= 1000 || v <= -1000:
		return fmt.Sprintf("%.0f", v)
	case v == float64(int64(v)):
		return fmt.Sprintf("%d", int64(v))
	}
	return fmt.Sprintf("%.3g", v)
}

// WriteJSON writes the run for programs.
func (r *Report) WriteJSON(name string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(data, '\n'), 0o644)
}
