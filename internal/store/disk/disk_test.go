package disk_test

import (
	"os"
	"testing"

	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/store/storetest"
)

func open(t testing.TB, cfg disk.Config) *disk.Store {
	t.Helper()
	if cfg.MaxSize == 0 {
		cfg.MaxSize = 1 << 30
	}
	s, err := disk.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t testing.TB, limit int64) func() store.Store {
		dir := t.TempDir()
		var s *disk.Store
		return func() store.Store {
			if s != nil {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
			s = open(t, disk.Config{Directory: dir, MaxSize: limit})
			return s
		}
	})
}

// memoryDir is a directory in memory, if the system has one: for what a real disk would only make slow.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "store-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
