package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"container-registry-proxy/internal/config"
)

// assume becomes the user that the configuration names, for good: the cache directory is given to that user first, and
// whatever only root may read has been read. A process that is not root stays who it is.
func assume(who config.User, cacheDirectory string) error {
	if who.UID == 0 || os.Geteuid() != 0 {
		return nil
	}
	if err := give(cacheDirectory, who); err != nil {
		return fmt.Errorf("RUN_AS=%s: cache directory: %w", who, err)
	}
	// The groups first: afterwards it may not.
	err := errors.Join(syscall.Setgroups([]int{who.GID}), syscall.Setgid(who.GID), syscall.Setuid(who.UID))
	if err != nil {
		return fmt.Errorf("RUN_AS=%s: %w", who, err)
	}
	return nil
}

// give hands the cache directory over, unless it is the user's already: what is in it is then what that user has put
// there. What is not of our layout stays as it is, and no link is followed.
func give(dir string, who config.User) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if info.Sys().(*syscall.Stat_t).Uid == uint32(who.UID) {
		return nil
	}
	for _, name := range []string{"VERSION", "lock", "key", "metadata.db", "blobs", "staging"} {
		err := filepath.WalkDir(filepath.Join(dir, name), func(path string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return errors.Join(err, os.Lchown(path, who.UID, who.GID))
		})
		if err != nil {
			return err
		}
	}
	return os.Lchown(dir, who.UID, who.GID) // last: it says that all of it is done
}

// explainPermission adds what helps to an error of a directory that this process may not write.
func explainPermission(err error, dir string) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w: this process is user %d: chown -R %d:%d %s", err, os.Geteuid(), os.Geteuid(), os.Getegid(), dir)
}

// explainListen adds what helps to an error of an address that cannot be listened at.
func explainListen(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: end the program that listens there, or want another port, such as :3228", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: want an address that this machine has, or none, such as :3128", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: want a port above 1023, such as :3128, or the capability CAP_NET_BIND_SERVICE", err)
	}
	return err
}
