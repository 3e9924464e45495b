package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"container-registry-proxy/internal/oci"
)

// adopt takes a file into the index that has the name of a blob: of a commit whose record a crash has lost, or of a
// database that was lost. Its bytes are hashed when it is first opened.
func (s *Store) adopt(d oci.Digest) bool {
	err := s.change(func() error {
		defer s.names.lock(d)()
		info, err := statFile(s.dir.blob(d))
		if err != nil {
			return err
		}
		if info.Size() == 0 && !d.Empty() {
			return fmt.Errorf("%s is empty: %w", d, fs.ErrNotExist)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.index[d] == nil {
			s.restore(&entry{digest: d, size: info.Size(), used: min(info.ModTime().Unix(), s.now().Unix())})
		}
		return nil
	})
	return err == nil
}

// survey walks the directory for files that the index does not know, and for entries whose files are gone.
func (s *Store) survey(ctx context.Context) {
	for _, algorithm := range []string{"sha256", "sha512"} {
		for i := range 256 {
			if ctx.Err() != nil {
				return
			}
			if err := s.surveyShard(algorithm, fmt.Sprintf("%02x", i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				s.log.Warn("survey of the cache directory", "err", err)
			}
		}
	}
	s.adopting.Store(false)
	s.countForeign(ctx)
}

func (s *Store) surveyShard(algorithm, shard string) error {
	known := s.shardEntries(algorithm, shard)
	path := filepath.Join(s.dir.blobs(), algorithm, shard)
	if info, err := os.Lstat(path); err != nil || !info.IsDir() {
		return err
	}
	files, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, file := range files {
		d, err := oci.ParseDigest(algorithm + ":" + file.Name())
		if err != nil || d.Hex()[:2] != shard || !file.Type().IsRegular() {
			s.log.Warn("foreign file is left alone", "path", filepath.Join(path, file.Name()))
			continue
		}
		if known[d] == nil {
			s.adopt(d)
		}
		delete(known, d)
	}
	for _, e := range known {
		if _, err := statFile(s.dir.blob(e.digest)); errors.Is(err, fs.ErrNotExist) {
			s.drop(e)
		}
	}
	return nil
}

// shardEntries are the entries of one directory.
func (s *Store) shardEntries(algorithm, shard string) map[oci.Digest]*entry {
	prefix := algorithm + ":" + shard
	found := map[oci.Digest]*entry{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, e := range s.index {
		if strings.HasPrefix(string(d), prefix) {
			found[d] = e
		}
	}
	return found
}

// foreign is what another program has left in the directory.
type foreign struct {
	files int
	bytes int64
}

// Foreign says how many files of an nginx cache were found in the directory, and how large they are. It is known some
// time after Run has begun. They are never touched.
func (s *Store) Foreign() (files int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.foreign.files, s.foreign.bytes
}

// countForeign counts the objects of an nginx proxy_cache with levels=1:2, as the program that this one replaces keeps
// them: <cache>/c/29/b7f54b2df7773722d382f4809d65029c.
func (s *Store) countForeign(ctx context.Context) {
	var found foreign
	for _, level := range hexDirectories(string(s.dir), 1) {
		for _, dir := range hexDirectories(level, 2) {
			files, err := os.ReadDir(dir)
			if err != nil || ctx.Err() != nil {
				continue
			}
			for _, file := range files {
				info, err := file.Info()
				if err == nil && info.Mode().IsRegular() && len(file.Name()) >= 32 && isHex(file.Name()[:32]) {
					found.files++
					found.bytes += info.Size()
				}
			}
		}
	}
	s.mu.Lock()
	s.foreign = found
	s.mu.Unlock()
	if found.files > 0 {
		s.log.Warn("the cache directory holds objects of an nginx cache, which are of no use here and take space", "objects", found.files,
			"bytes", found.bytes, "remove_with", fmt.Sprintf("rm -rf '%s'/[0-9a-f]", s.dir))
	}
}

// hexDirectories are the directories in path whose names are that many hex digits.
func hexDirectories(path string, digits int) (found []string) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() && len(e.Name()) == digits && isHex(e.Name()) {
			found = append(found, filepath.Join(path, e.Name()))
		}
	}
	return found
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }
