package peer

import (
	"syscall"
	"time"
	"unsafe"
)

// cpuClock reads the CPU clock of a process: what /proc has as utime and stime, threads that have ended included, but in
// nanoseconds instead of ticks of 10 ms. The number of the clock is made as clock_getcpuclockid(3) makes it.
func cpuClock(pid int) (time.Duration, error) {
	const schedulerClock = 2
	var used syscall.Timespec
	clock := ^uintptr(pid)<<3 | schedulerClock
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&used)), 0); errno != 0 {
		return 0, errno
	}
	return time.Duration(used.Nano()), nil
}
