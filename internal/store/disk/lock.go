package disk

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockPoll is how often a held lock is tried again.
const lockPoll = 50 * time.Millisecond

// lock takes the directory for this process, waiting for its holder up to wait. The lock goes with the process; the
// file only says who has it.
func (d directory) lock(wait time.Duration) (*os.File, error) {
	path := filepath.Join(string(d), "lock")
	f, _, err := openFile(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("cache directory %s: %w", d, err)
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(lockPoll) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			holder, _ := io.ReadAll(io.LimitReader(f, 200))
			_ = f.Close()
			if !errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, fmt.Errorf("lock %s: %w", path, err)
			}
			name := cmp.Or(string(bytes.TrimSpace(holder)), "another process")
			return nil, fmt.Errorf("cache directory %s is in use by %s: stop that process, or give this one a directory of its own", d, name)
		}
	}
	host, _ := os.Hostname()
	holder := fmt.Sprintf("process %d on %s since %s\n", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339))
	_ = f.Truncate(0) // the holder's name is a courtesy
	_, _ = f.WriteAt([]byte(holder), 0)
	return f, nil
}

func unlock(f *os.File) error {
	_ = f.Truncate(0)
	return f.Close()
}
