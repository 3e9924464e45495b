package rows

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"container-registry-proxy/bench/peer"
)

// run measures a row whose columns give these values of the metric "m", round by round; a negative one is a failure.
func run(t *testing.T, values map[string][]float64, claims ...Claim) *Result {
	t.Helper()
	row := Row{Name: "row", Claims: claims, Prepare: func(context.Context, *Stand) (Measure, error) {
		round := map[string]int{}
		return func(_ context.Context, column string) (Sample, error) {
			value := values[column][round[column]]
			round[column]++
			if value < 0 {
				return nil, errors.New("broken pipe")
			}
			return Sample{"m": value}, nil
		}, nil
	}}
	for column, list := range values {
		row.Columns, row.Rounds = append(row.Columns, column), len(list)
	}
	return Run(t.Context(), &Stand{absent: map[string]string{"absent": "is not installed"}}, row)
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		values map[string][]float64
		claim  Claim
		want   Outcome // but for the claim
	}{
		{"a ratio is taken within a round", map[string][]float64{Ours: {10, 2, 3}, Relay: {20, 2, 12}},
			Claim{Metric: "m", Over: Relay, AtMost: 0.5}, Outcome{Rounds: 3, Median: 0.5, Min: 0.25, Max: 1, Reached: true}},
		{"median above the bound", map[string][]float64{Ours: {4, 4}, Relay: {5, 8}},
			Claim{Metric: "m", Over: Relay, AtMost: 0.6}, Outcome{Rounds: 2, Median: 0.65, Min: 0.5, Max: 0.8}},
		{"at least", map[string][]float64{Ours: {8}, Relay: {4}},
			Claim{Metric: "m", Over: Relay, AtLeast: 2}, Outcome{Rounds: 1, Median: 2, Min: 2, Max: 2, Reached: true}},
		{"a difference", map[string][]float64{Ours: {8, 9, 20}, Direct: {4, 4, 4}},
			Claim{Metric: "m", Minus: Direct, AtMost: 5}, Outcome{Rounds: 3, Median: 5, Min: 4, Max: 16, Reached: true}},
		{"nothing", map[string][]float64{Ours: {0}}, Claim{Metric: "m", Zero: true}, Outcome{Rounds: 1, Reached: true}},
		{"not nothing", map[string][]float64{Ours: {1}}, Claim{Metric: "m", Zero: true}, Outcome{Rounds: 1, Median: 1, Min: 1, Max: 1}},
		{"of another column", map[string][]float64{Limit: {2}, LimitSums: {3}},
			Claim{Metric: "m", Of: LimitSums, Over: Limit, AtMost: 1.05}, Outcome{Rounds: 1, Median: 1.5, Min: 1.5, Max: 1.5}},
		{"a failed round does not count", map[string][]float64{Ours: {1, 1}, Relay: {-1, 2}},
			Claim{Metric: "m", Over: Relay, AtMost: 1}, Outcome{Rounds: 1, Median: 0.5, Min: 0.5, Max: 0.5, Reached: true}},
		{"all rounds failed", map[string][]float64{Ours: {1}, Relay: {-1}},
			Claim{Metric: "m", Over: Relay, AtMost: 1}, Outcome{Absent: "nginx-relay: round 1: broken pipe"}},
		{"a peer that is not there", map[string][]float64{Ours: {1}, "absent": {1}},
			Claim{Metric: "m", Over: "absent", AtMost: 1}, Outcome{Absent: "absent: is not installed"}},
		{"a metric that nobody measures", map[string][]float64{Ours: {1}}, Claim{Metric: "x", AtMost: 1}, Outcome{Absent: "not measured"}},
	} {
		got := run(t, tt.values, tt.claim).Claims[0]
		got.Claim = Claim{}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.name, diff)
		}
	}
}

func TestARowThatCannotBePrepared(t *testing.T) {
	t.Parallel()
	row := Row{Columns: []string{Ours}, Claims: []Claim{{Metric: "m", AtMost: 1}}, Prepare: func(context.Context, *Stand) (Measure, error) {
		return nil, errors.New("disk full")
	}}
	r := Run(t.Context(), &Stand{}, row)
	if got := r.Claims[0].Absent; !strings.Contains(got, "disk full") {
		t.Errorf("claim is absent because %q, want the reason", got)
	}
}

// Every claim names columns that its row measures and has a bound, in both scales.
func TestRowsAreConsistent(t *testing.T) {
	t.Parallel()
	for _, scale := range []Scale{Full(), Short()} {
		names := map[string]bool{}
		for _, row := range All(scale) {
			if names[row.Name] || row.Name == "" || row.Title == "" || row.Prepare == nil || len(row.Claims) == 0 {
				t.Errorf("%s: row %q is not complete, or there are two", scale.Name, row.Name)
			}
			names[row.Name] = true
			measured := map[string]bool{"": true}
			for _, column := range row.Columns {
				measured[column] = true
			}
			for _, c := range row.Claims {
				if c.Of == "" && !measured[Ours] || !measured[c.Of] || !measured[c.Over] || !measured[c.Minus] {
					t.Errorf("%s: %s: claim %+v is of a column that is not measured", scale.Name, row.Name, c)
				}
				if bounds := c.AtMost != 0 || c.AtLeast != 0; bounds == c.Zero || c.AtMost != 0 && c.AtLeast != 0 {
					t.Errorf("%s: %s: claim %+v wants one bound", scale.Name, row.Name, c)
				}
			}
		}
	}
}

// Another build is compared in every metric that is claimed, once.
func TestAgainstBefore(t *testing.T) {
	t.Parallel()
	claims := []Claim{
		{Metric: "cpu", Over: Relay, AtMost: 0.45}, {Metric: "cpu", Over: Nginx, AtMost: 0.75}, {Metric: "rate", Over: Relay, AtLeast: 2},
		{Metric: "cpu", Of: LimitSums, Over: Limit, AtMost: 1.05},
	}
	if got := (&Stand{}).againstBefore(claims); len(got) != len(claims) {
		t.Errorf("without another build: %d claims, want %d", len(got), len(claims))
	}
	got := (&Stand{before: &peer.Ours{}}).againstBefore(claims)
	want := append(claims, Claim{Metric: "cpu", Over: Before, AtMost: 1}, Claim{Metric: "rate", Over: Before, AtLeast: 1})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
