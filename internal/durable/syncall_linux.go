package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// SyncAll makes durable all that has been written to the file system of a directory, in one go.
func SyncAll(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd())))
}
