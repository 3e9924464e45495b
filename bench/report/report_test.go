package report

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"container-registry-proxy/bench/rows"
)

func sample() *Report {
	return &Report{Command: "go run ./bench", Rows: []*rows.Result{{
		Name: "hit", Title: "a hit",
		Samples: map[string][]rows.Sample{rows.Ours: {{"cpu": 0.5}, {"cpu": 0.7}, {"cpu": 0.6}}, rows.Relay: {{"cpu": 1.5}, nil}},
		Errors:  map[string]string{rows.Relay: "round 2: broken pipe"},
		Claims: []rows.Outcome{
			{Claim: rows.Claim{What: "CPU", Over: rows.Relay, AtMost: 0.45}, Rounds: 3, Median: 0.4, Min: 0.38, Max: 0.43, Reached: true},
			{Claim: rows.Claim{What: "MB/s", Over: rows.Relay, AtLeast: 2}, Rounds: 1, Median: 1.5, Min: 1.5, Max: 1.5},
			{Claim: rows.Claim{What: "sums", Of: rows.LimitSums, Over: rows.Limit, AtMost: 1.05}, Absent: "limit: no room"},
		},
	}}}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := sample().Write(&b); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(b.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	text := strings.Join(lines, "\n")
	for _, want := range []string{
		"hit CPU × nginx-relay ≤ 0.45 0.4 0.38 to 0.43 reached",
		"hit MB/s × nginx-relay ≥ 2 1.5 missed",
		"hit sums (limit-sums) × limit ≤ 1.05 - not measured",
		"1 reached, 1 missed, 1 not measured",
		"not measured: hit: limit: no room",
		"ours 0.6",
		"nginx-relay: round 2: broken pipe",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}

func TestWriteJSON(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "result.json")
	if err := sample().WriteJSON(name); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if got := back.Rows[0].Claims[0].Median; got != 0.4 {
		t.Errorf("median read back = %v, want 0.4", got)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for value, want := range map[float64]string{0: "0", 1: "1", 0.12345: "0.123", 12.345: "12.3", 1234.5: "1234", -6757.2: "-6757"} {
		if got := Number(value); got != want {
			t.Errorf("Number(%v) = %q, want %q", value, got, want)
		}
	}
}
