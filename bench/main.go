// Command bench measures the proxy beside nginx as the originals use it, distribution, the origin itself and the limit
// of what a hit can cost, all on this machine, on loopback and in turns, and says of each row of the table in
// docs/performance.md whether it is reached. It asserts nothing: its exit code says only whether it could measure.
//
// It writes below a temporary directory that it removes, and below bin/bench, where the programs of others are kept. It
// needs Linux and Go; nginx is Debian's, unpacked and not installed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"container-registry-proxy/bench/peer"
	"container-registry-proxy/bench/report"
	"container-registry-proxy/bench/rows"
)

func main() {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "serve-") {
		exit(peer.Be(os.Args[1], os.Args[2:]))
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	exit(run(ctx, parse()))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are those of the command line.
type options struct {
	short    bool
	only     string
	columns  string
	rounds   int
	fetch    bool
	dir      string
	json     string
	ours     string
	before   string
	profiles string
	list     bool
}

func parse() (o options) {
	flag.BoolVar(&o.short, "short", false, "measure less, in under two minutes")
	flag.StringVar(&o.only, "rows", "", "measure only rows whose name matches this regular expression")
	flag.StringVar(&o.columns, "columns", "", "measure only these columns, with commas between")
	flag.IntVar(&o.rounds, "rounds", 0, "rounds of each row, instead of the scale's own number")
	flag.BoolVar(&o.fetch, "fetch", true, "get nginx from Debian, and build distribution, if they are not in bin/bench")
	flag.StringVar(&o.dir, "dir", "", "directory on the file system to measure on (default: the system's for temporary files)")
	flag.StringVar(&o.json, "json", "", "file for the figures as JSON (default: bin/bench/result.json)")
	flag.StringVar(&o.ours, "ours", "", "program to measure (default: built from this repository)")
	flag.StringVar(&o.before, "before", "", "another build of the proxy, to be measured beside it")
	flag.StringVar(&o.profiles, "profiles", "", "directory that gets a CPU profile of the proxy for each row")
	flag.BoolVar(&o.list, "list", false, "print the names of the rows and end")
	flag.Parse()
	return o
}

func run(ctx context.Context, o options) (err error) {
	scale := rows.Full()
	if o.short {
		scale = rows.Short()
	}
	if o.rounds > 0 {
		scale.Rounds, scale.Long = o.rounds, o.rounds
	}
	chosen, err := choose(rows.All(scale), o.only)
	if err != nil {
		return err
	}
	if o.list {
		for _, row := range chosen {
			fmt.Printf("%-20s %s\n", row.Name, row.Title)
		}
		return nil
	}
	root, err := peer.Root()
	if err != nil {
		return err
	}
	cfg, err := prepare(ctx, root, o, scale)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(cfg.Dir)) }()
	r := &report.Report{
		Command: "go run ./bench " + strings.Join(os.Args[1:], " "), Commit: commit(root), Scale: scale.Name,
		Began: time.Now(), Machine: report.ThisMachine(),
	}
	err = measure(ctx, cfg, chosen, r) // what was measured before it failed, or was interrupted, is reported
	if o.json == "" {
		o.json = filepath.Join(root, "bin", "bench", "result.json")
	}
	return errors.Join(err, r.Write(os.Stdout), r.WriteJSON(o.json))
}

// choose picks the rows whose name matches.
func choose(all []rows.Row, pattern string) (chosen []rows.Row, err error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("-rows: %w", err)
	}
	for _, row := range all {
		if match.MatchString(row.Name) {
			chosen = append(chosen, row)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("-rows=%s: matches no row: -list has them", pattern)
	}
	return chosen, nil
}

// prepare finds or makes what is compared, and the directory for all that is written.
func prepare(ctx context.Context, root string, o options, scale rows.Scale) (cfg rows.Config, err error) {
	programs := filepath.Join(root, "bin", "bench")
	if err := os.MkdirAll(programs, 0o755); err != nil {
		return cfg, err
	}
	cfg = rows.Config{Scale: scale, Ours: o.ours, Before: o.before, Profiles: o.profiles, Columns: strings.FieldsFunc(o.columns, func(r rune) bool { return r == ',' })}
	if o.profiles != "" {
		if err := os.MkdirAll(o.profiles, 0o755); err != nil {
			return cfg, err
		}
	}
	say("looking for nginx and distribution below bin/bench; the first time takes minutes")
	cfg.Tools = peer.Find(ctx, programs, o.fetch)
	if cfg.Ours == "" {
		if cfg.Ours, err = peer.Build(ctx, root, programs); err != nil {
			return cfg, err
		}
	}
	cfg.Dir, err = os.MkdirTemp(o.dir, "container-registry-proxy-bench-")
	return cfg, err
}

// measure runs the rows, one after the other.
func measure(ctx context.Context, cfg rows.Config, chosen []rows.Row, r *report.Report) (err error) {
	stand, err := rows.NewStand(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		r.Took = time.Since(r.Began)
		err = errors.Join(err, stand.Close())
	}()
	for i, row := range chosen {
		say("%d/%d %s: %s", i+1, len(chosen), row.Name, row.Title)
		r.Rows = append(r.Rows, rows.Run(ctx, stand, row))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// say tells who waits how far it has come.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// commit is what is measured.
func commit(root string) string {
	out, err := exec.Command("git", "-C", root, "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
