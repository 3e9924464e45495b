// Package durable writes files that survive a power cut. Its invariant: what it has reported as written is either
// whole under its name after any crash, or absent.
//
// The order that makes it so (a rename without the first fsync leaves an empty file after a power cut, measured on
// ext4): write a temporary file in the same directory, fsync it, rename it, fsync the directory.
//
// [DB] relaxes it where a loss costs a question, not content: its writes become durable a moment after they were made,
// all or none of those made together.
package durable

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile replaces the file at path by one with this data and these permissions, which do not pass through the
// umask. A reader sees the old file or the new one.
func WriteFile(path string, data []byte, perm os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return Rename(f.Name(), path)
}

// Rename moves a file, whose bytes the caller has synced, to a name in a directory that exists. When it returns, the new name is durable.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// MkdirAll is [os.MkdirAll] whose new directories are durable when it returns.
func MkdirAll(path string, perm os.FileMode) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return &os.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
		}
		return nil
	}
	parent := filepath.Dir(path)
	if err := MkdirAll(parent, perm); err != nil {
		return err
	}
	if err := os.Mkdir(path, perm); err != nil && !os.IsExist(err) {
		return err
	}
	return SyncDir(parent)
}

// SyncDir makes the names in a directory durable.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
