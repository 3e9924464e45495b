// Package rows has what is measured: the rows of the benchmark's table. Its invariant: the peers of a row are measured
// in turns, round after round, in one run on one machine, and what is claimed is a ratio within a round or a number that
// does not depend on the machine's speed. A row asserts nothing; package report says how near it came.
package rows

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Sample is what one measurement of one column gave: values by the name of their metric.
type Sample map[string]float64

// Row is one line of what is to be reached.
type Row struct {
	Name    string // short, for choosing rows on the command line
	Title   string
	Columns []string // what is measured, in turns
	Rounds  int      // 0 means as many as the scale says
	Claims  []Claim
	// Prepare fills caches and returns what measures one column. It is called once.
	Prepare func(ctx context.Context, s *Stand) (Measure, error)
}

// Measure takes one sample of one column.
type Measure func(ctx context.Context, column string) (Sample, error)

// Claim is what a row is to reach: a bound on a metric of one column, absolute or against another column.
type Claim struct {
	What   string // the metric, for people
	Metric string
	Of     string // column; "" means Ours
	Over   string // column that it is divided by; "" means none
	Minus  string // column that is subtracted; "" means none
	// AtMost or AtLeast is the bound; the other one is 0. A bound of 0 is written as AtMost with Zero.
	AtMost, AtLeast float64
	Zero            bool
}

// Reached reports whether a value keeps the bound.
func (c Claim) Reached(value float64) bool {
	if c.AtLeast != 0 {
		return value >= c.AtLeast
	}
	return value <= c.AtMost
}

// Bound is the bound in words.
func (c Claim) Bound() string {
	switch {
	case c.AtLeast != 0:
		return fmt.Sprintf("≥ %.4g", c.AtLeast)
	case c.Zero:
		return "0"
	}
	return fmt.Sprintf("≤ %.4g", c.AtMost)
}

// Result is what a row gave. The samples of a column are in the order of the rounds; a round in which the column failed
// has a nil one.
type Result struct {
	Name    string
	Title   string
	Samples map[string][]Sample
	Claims  []Outcome
	Errors  map[string]string // by column
	Took    time.Duration
}

// Outcome is a claim and what was measured: the median over the rounds, and the extremes.
type Outcome struct {
	Claim            Claim
	Rounds           int
	Median, Min, Max float64
	Reached          bool
	Absent           string // why nothing was measured
}

// Run measures a row.
func Run(ctx context.Context, s *Stand, row Row) *Result {
	began := time.Now()
	r := &Result{Name: row.Name, Title: row.Title, Samples: map[string][]Sample{}, Errors: map[string]string{}}
	r.measure(ctx, s, row)
	if err := s.tidy(ctx); err != nil {
		r.Errors["tidy"] = err.Error()
	}
	for _, claim := range s.againstBefore(row.Claims) {
		r.Claims = append(r.Claims, r.judge(claim))
	}
	r.Took = time.Since(began)
	return r
}

// againstBefore adds a claim for each metric of ours that is claimed: that it is no worse than the other build's.
func (s *Stand) againstBefore(claims []Claim) []Claim {
	if s.before == nil {
		return claims
	}
	seen := map[string]bool{}
	all := slices.Clone(claims)
	for _, c := range claims {
		if c.Of != "" || c.Zero || seen[c.Metric] {
			continue
		}
		seen[c.Metric] = true
		c.Over, c.Minus = Before, ""
		if c.AtLeast != 0 {
			c.AtLeast = 1
		} else {
			c.AtMost = 1
		}
		all = append(all, c)
	}
	return all
}

func (r *Result) measure(ctx context.Context, s *Stand, row Row) {
	columns := s.present(row.Columns, r.Errors)
	measure, err := row.Prepare(ctx, s)
	if err != nil {
		for _, column := range columns {
			r.Errors[column] = "prepare: " + err.Error()
		}
		return
	}
	rounds := row.Rounds
	if rounds == 0 {
		rounds = s.Scale.Rounds
	}
	for round := range rounds {
		for _, column := range columns {
			sample, err := measure(ctx, column)
			if err != nil {
				r.Errors[column] = fmt.Sprintf("round %d: %v", round+1, err)
				sample = nil
			}
			r.Samples[column] = append(r.Samples[column], sample)
			if ctx.Err() != nil {
				return
			}
		}
	}
	if s.cfg.Profiles != "" && slices.Contains(columns, Ours) && row.Rounds != 1 { // rows of one round restart what they measure
		if err := s.profile(ctx, row.Name, measure); err != nil {
			r.Errors["profile"] = err.Error()
		}
	}
}

// judge compares a claim with the samples, round by round.
func (r *Result) judge(c Claim) Outcome {
	if c.Of == "" {
		c.Of = Ours
	}
	o := Outcome{Claim: c}
	var values []float64
	for round, sample := range r.Samples[c.Of] {
		value, ok := sample[c.Metric]
		if other := c.Over + c.Minus; ok && other != "" {
			var base float64
			if base, ok = r.at(other, round)[c.Metric]; ok && c.Over != "" {
				ok = base != 0
				value /= base
			} else {
				value -= base
			}
		}
		if ok {
			values = append(values, value)
		}
	}
	if len(values) == 0 {
		o.Absent = "not measured"
		for _, column := range []string{c.Over, c.Minus, c.Of} {
			if why, failed := r.Errors[column]; failed {
				o.Absent = column + ": " + why
			}
		}
		return o
	}
	slices.Sort(values)
	o.Rounds, o.Min, o.Max, o.Median = len(values), values[0], values[len(values)-1], Median(values)
	o.Reached = c.Reached(o.Median)
	return o
}

func (r *Result) at(column string, round int) Sample {
	if samples := r.Samples[column]; round < len(samples) {
		return samples[round]
	}
	return nil
}

// Median is the middle of sorted values, or the mean of the two in the middle.
func Median(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
