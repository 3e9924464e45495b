// Package peer runs the programs that the benchmark compares: the proxy of this repository, nginx as the originals use
// it, distribution as a pull-through mirror, the origin behind them all, and the limit, a program that does no more than a
// hit must. Its invariant: what it started it ends, each by its process id, and what a program costs is read from
// the kernel's accounts of it and its children, never guessed from a clock on the wall.
package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Command says how a program is started.
type Command struct {
	Name string // for its log file, and for people
	Path string
	Args []string
	Env  []string // added to the benchmark's own
	Dir  string   // where its log goes
	// Cache is the directory of what it caches; "" for a program that caches nothing.
	Cache string
	// Ready returns nil once the program serves. It is asked again until then.
	Ready func(ctx context.Context) error
}

// Process is a running program with its children.
type Process struct {
	command Command
	cmd     *exec.Cmd
	ended   chan struct{} // closed when it has ended; its error is in cmd
}

// startTimeout is how long a program may take until it serves.
const startTimeout = 30 * time.Second

// Start starts a program and waits until it serves.
func Start(ctx context.Context, command Command) (*Process, error) {
	p := &Process{command: command}
	return p, p.start(ctx)
}

func (p *Process) start(ctx context.Context) error {
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.command.Path, p.command.Args...)
	p.cmd.Env = append(os.Environ(), p.command.Env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.command.Name, err)
	}
	p.ended = make(chan struct{})
	go func() { // ends with the program
		_ = p.cmd.Wait() // Stop and the wait below know what it means
		close(p.ended)
	}()
	if err := p.ready(ctx); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w\n%s", p.command.Name, err, p.lastWords()), p.Stop())
	}
	return nil
}

// ready waits until the program serves.
func (p *Process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := p.command.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("it ended: %s", p.cmd.ProcessState)
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(time.Millisecond):
		}
	}
}

// Restart stops the program and starts it again. It returns how long the new one took until it served.
func (p *Process) Restart(ctx context.Context) (time.Duration, error) {
	if err := p.Stop(); err != nil {
		return 0, err
	}
	began := time.Now()
	return time.Since(began), p.start(ctx)
}

// stopTimeout is how long a program may take to end in good order.
const stopTimeout = 5 * time.Second

// Stop ends the program, with force if it does not end by itself. It may be called again.
func (p *Process) Stop() error {
	if p == nil || p.ended == nil {
		return nil
	}
	children := descendants(p.cmd.Process.Pid)
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopTimeout):
	}
	for _, pid := range append(children, p.cmd.Process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // a child may have ended
	}
	<-p.ended
	return nil
}

func (p *Process) log() string { return filepath.Join(p.command.Dir, p.command.Name+".log") }

// lastWords are the last lines of the program's log.
func (p *Process) lastWords() string {
	data, err := os.ReadFile(p.log())
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-2<<10):])
}

// CPU is the user and system time that the program and its children have used so far.
func (p *Process) CPU() (time.Duration, error) {
	var total time.Duration
	for _, pid := range p.pids() {
		used, err := cpuClock(pid)
		if err != nil {
			return 0, fmt.Errorf("CPU of %s: %w", p.command.Name, err)
		}
		total += used
	}
	return total, nil
}

// Memory is the program's proportional set size (PSS) in bytes, its children's included.
func (p *Process) Memory() (int64, error) {
	var total int64
	for _, pid := range p.pids() {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, fmt.Errorf("memory of %s: %w", p.command.Name, err)
		}
		for line := range strings.Lines(string(data)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
				if err != nil {
					return 0, fmt.Errorf("memory of %s: %w", p.command.Name, err)
				}
				total += kib << 10
			}
		}
	}
	return total, nil
}

func (p *Process) pids() []int {
	return append(descendants(p.cmd.Process.Pid), p.cmd.Process.Pid)
}

// descendants are the children of a process, and theirs.
func descendants(parent int) []int {
	var found []int
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	children := map[int][]int{}
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// The name is in parentheses and may hold anything; behind it come the state and the parent.
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil || len(fields) < 2 {
			continue
		}
		ppid, err := strconv.Atoi(fields[1])
		if err == nil {
			children[ppid] = append(children[ppid], pid)
		}
	}
	for next := children[parent]; len(next) > 0; next = next[1:] {
		found = append(found, next[0])
		next = append(next, children[next[0]]...)
	}
	return found
}

// freePort returns a port of the loopback interface that nobody listens on now. Programs that choose their own port
// cannot say which they chose in one way. It is none of those that the kernel gives to connections: a program that is
// started again must not find its port taken by one.
func freePort() (string, error) {
	const first, last = 10_000, 30_000
	for range 100 {
		port := strconv.Itoa(first + rand.IntN(last-first))
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			return port, l.Close()
		}
	}
	return "", fmt.Errorf("no free port from %d to %d was found", first, last)
}

// freePorts returns n different ones.
func freePorts(n int) ([]string, error) {
	seen := map[string]bool{}
	var ports []string
	for len(ports) < n {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		if !seen[port] {
			seen[port] = true
			ports = append(ports, port)
		}
	}
	return ports, nil
}

// listens is a Ready that succeeds once somebody takes connections on every address.
func listens(addrs ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, addr := range addrs {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			if err := c.Close(); err != nil {
				return err
			}
		}
		return nil
	}
}
