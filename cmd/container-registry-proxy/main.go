// Command container-registry-proxy caches the container images of every registry. It has no settings of its own: those
// of the proxy are environment variables and a file, which package config documents.
//
// Its exit codes are:
//
//	0         done, or stopped by a signal with everything that ran finished
//	1         it failed
//	2         the command line or the configuration is wrong; stderr has one problem a line
//	130, 143  ended at once by a second SIGINT or SIGTERM
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"container-registry-proxy/internal/config"
)

const (
	exitFailure = 1
	exitUsage   = 2
	exitSignal  = 128 // and the number of the signal
)

func main() {
	os.Exit(run(untilSignal(context.Background()), process{args: os.Args[1:], environ: os.Environ(), stdout: os.Stdout, stderr: os.Stderr}))
}

// process is what a command has of the outside.
type process struct {
	args, environ  []string
	stdout, stderr io.Writer
}

// run executes the command line and returns the exit code.
func run(ctx context.Context, p process) int {
	err := command(p).ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(p.stderr, "container-registry-proxy:", strings.TrimSuffix(line, "\n"))
	}
	var usage *usageError
	var settings *config.Error
	if errors.As(err, &usage) || errors.As(err, &settings) {
		return exitUsage
	}
	return exitFailure
}
