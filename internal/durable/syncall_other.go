//go:build !linux

package durable

import "syscall"

// SyncAll makes durable all that has been written, in one go.
func SyncAll(string) error { return syscall.Sync() }
