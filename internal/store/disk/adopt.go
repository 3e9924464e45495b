package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"container-registry-proxy/internal/oci"
)

// adopt takes a file into the index that has the name of a blob: of a commit whose record a crash has lost, or of a
// database that was lost. Its bytes are hashed when it is first opened. What is being evicted is not adopted.
func (s *Store) adopt(d oci.Digest) bool {
	s.unlinking.Lock()
	defer s.unlinking.Unlock()
	err := s.change(func() error {
		defer s.names.lock(d)()
		path, err := s.blobPath(d)
		if err != nil {
			return err
		}
		info, err := statFile(path)
		if err != nil {
			return err
		}
		if info.Size() == 0 && !d.Empty() {
			return errors.Join(s.unlink(path), fmt.Errorf("%s is empty", d)) // debris of a power cut
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		going := slices.ContainsFunc(s.evicted, func(file evicted) bool { return file.blob == d })
		if s.index[d] == nil && !going {
			e := &entry{digest: d, size: info.Size(), used: s.now().Unix()}
			s.restore(e)
			s.db.Put(bucketBlobs, string(d), e.record())
		}
		return nil
	})
	return err == nil
}

// survey walks the directory for files that the index does not know, and for entries whose files are gone.
func (s *Store) survey(ctx context.Context) {
	s.loaded()
	var strangers []string
	entries := s.byShard()
	for _, algorithm := range []string{"sha256", "sha512"} {
		for i := range 256 {
			if ctx.Err() != nil {
				return
			}
			shard := algorithm + ":" + fmt.Sprintf("%02x", i)
			found, err := s.surveyShard(shard, entries[shard])
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				s.log.Warn("survey of the cache directory", "err", err)
			}
			strangers = append(strangers, found...)
		}
	}
	if len(strangers) > 0 {
		s.log.Warn("foreign files among the blobs are left alone", "files", len(strangers), "first", strangers[0])
	}
	s.adopting.Store(false)
	s.countForeign(ctx)
}

// surveyShard does so for one directory, of the digests that begin with shard, and returns the paths of what has no
// place in it.
func (s *Store) surveyShard(shard string, entries []*entry) (strangers []string, err error) {
	known := map[oci.Digest]*entry{}
	for _, e := range entries {
		known[e.digest] = e
	}
	algorithm, first, _ := strings.Cut(shard, ":")
	path := filepath.Join(s.dir.blobs(), algorithm, first)
	if err := cmp.Or(realDirectory(filepath.Dir(path)), realDirectory(path)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			s.dropGone(known)
		}
		return nil, err
	}
	files, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		d, err := oci.ParseDigest(algorithm + ":" + file.Name())
		if err != nil || !strings.HasPrefix(string(d), shard) || !file.Type().IsRegular() {
			strangers = append(strangers, filepath.Join(path, file.Name()))
			continue
		}
		if known[d] == nil {
			s.adopt(d)
		}
		delete(known, d)
	}
	s.dropGone(known)
	return strangers, nil
}

// dropGone drops the entries whose files are not there.
func (s *Store) dropGone(entries map[oci.Digest]*entry) {
	for _, e := range entries {
		if _, err := statFile(s.dir.blob(e.digest)); errors.Is(err, fs.ErrNotExist) {
			s.drop(e)
		}
	}
}

// byShard are the entries by how their digests begin, "sha256:ab".
func (s *Store) byShard() map[string][]*entry {
	found := map[string][]*entry{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, e := range s.index {
		shard := string(d[:len("sha256:ab")])
		found[shard] = append(found[shard], e)
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
			if ctx.Err() != nil {
				return
			}
			found.add(dir)
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

// add counts the objects in a directory. While nginx writes one, a dot and a number follow the 32 digits of its name.
func (f *foreign) add(dir string) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, file := range files {
		name, _, _ := strings.Cut(file.Name(), ".")
		info, err := file.Info()
		if err == nil && info.Mode().IsRegular() && len(name) == 32 && isHex(name) {
			f.files++
			f.bytes += info.Size()
		}
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
