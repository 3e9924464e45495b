package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Tidy starts a program anew with an empty cache, if what it caches takes more than most bytes of the disk.
func (p *Process) Tidy(ctx context.Context, most int64) error {
	used, err := diskUse(p.command.Cache)
	if err != nil || used <= most {
		return err
	}
	if err := p.Stop(); err != nil {
		return err
	}
	if err := os.RemoveAll(p.command.Cache); err != nil {
		return fmt.Errorf("empty the cache of %s: %w", p.command.Name, err)
	}
	return p.start(ctx)
}

// diskUse is the space that the files below a directory take.
func diskUse(dir string) (used int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return ignoreAbsent(err)
		}
		info, err := entry.Info()
		if err != nil {
			return ignoreAbsent(err)
		}
		used += info.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	})
	return used, err
}

// ignoreAbsent is err, unless it says that something is not there: a program removes what it likes meanwhile.
func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
