package app_test

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is what has been spent by an instant: by this process, and by all on this machine.
type machine struct {
	process time.Duration // of CPUs
	idle    float64       // of CPUs, in ticks; after since, the share of all
	all     float64
}

// machineTime reads /proc/stat, whose first line is "cpu user nice system idle iowait irq softirq steal …" in ticks.
func machineTime(t testing.TB) (m machine) {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	m.process = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	for i, field := range strings.Fields(line)[1:] {
		ticks, _ := strconv.ParseFloat(field, 64)
		m.all += ticks
		if i == 3 || i == 4 { // what waits for a disk has CPUs to spare
			m.idle += ticks
		}
	}
	return m
}

// since is what was spent between two instants.
func (m machine) since(before machine) machine {
	all := m.all - before.all
	return machine{process: m.process - before.process, idle: (m.idle - before.idle) / max(all, 1), all: all}
}
