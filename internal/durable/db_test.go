package durable_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"container-registry-proxy/internal/durable"
)

func open(t *testing.T, path string) *durable.DB {
	t.Helper()
	db, err := durable.OpenDB(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func scan(db *durable.DB, bucket, prefix string) map[string]string {
	found := map[string]string{}
	db.Scan(bucket, prefix, func(key string, value []byte) bool {
		found[key] = string(value)
		return true
	})
	return found
}

func TestReadsSeeWritesBeforeAndAfterTheFlush(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "db"))
	db.Put("a", "x1", []byte("old"))
	db.Put("a", "x2", []byte("gone"))
	db.Put("a", "y", nil)
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	db.Put("a", "x1", []byte("new"))
	db.Delete("a", "x2")
	db.Put("a", "x3", []byte("more"))
	check := func() {
		t.Helper()
		want := map[string]string{"x1": "new", "x3": "more"}
		if diff := cmp.Diff(want, scan(db, "a", "x")); diff != "" {
			t.Errorf("scan: %s", diff)
		}
		if value, ok := db.Get("a", "y"); !ok || len(value) != 0 {
			t.Errorf("an empty value is read as %q, %v", value, ok)
		}
		if _, ok := db.Get("a", "x2"); ok {
			t.Error("a deleted key is there")
		}
		if _, ok := db.Get("none", "x1"); ok {
			t.Error("a key of another bucket is there")
		}
	}
	check()
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	check()
}

// A page is of what is in the file, as it is by now.
func TestPages(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "db"))
	for _, key := range []string{"a", "b", "c", "d", "e"} {
		db.Put("one", key, []byte("old"))
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	db.Put("one", "b", []byte("new"))
	db.Delete("one", "c")
	db.Put("one", "f", []byte("not written"))
	for _, tt := range []struct{ bucket, after, want string }{
		{"one", "", "[a b] [old new]"}, {"one", "b", "[d e] [old old]"}, {"one", "d", "[e] [old]"}, {"one", "bb", "[d e] [old old]"}, {"one", "e", "[] []"}, {"none", "", "[] []"},
	} {
		keys, values := db.Page(tt.bucket, tt.after, 2)
		if got := fmt.Sprintf("%s %s", keys, values); got != tt.want {
			t.Errorf("Page(%q, %q) = %s, want %s", tt.bucket, tt.after, got, tt.want)
		}
	}
}

func TestWritesOutliveTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	db.Put("a", "k", []byte("v"))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db.Put("a", "late", []byte("v"))
	if _, ok := db.Get("a", "k"); ok {
		t.Error("a closed database answers")
	}
	if diff := cmp.Diff(map[string]string{"k": "v"}, scan(open(t, path), "a", "")); diff != "" {
		t.Error(diff)
	}
}

func TestRunWritesBehind(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	ctx, cancel := context.WithCancelCause(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := db.Run(ctx); err != ctx.Err() && !errors.Is(err, context.Cause(ctx)) {
			t.Error(err)
		}
	})
	for i := range 100 {
		db.Put("a", fmt.Sprint(i), []byte(strings.Repeat("v", 4096)))
	}
	for db.Size() < 100*4096 { // until it is in the file
		if t.Context().Err() != nil {
			t.Fatal("never written")
		}
	}
	cancel(errors.New("stop"))
	running.Wait()
}

func TestDamagedFileIsSetAside(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, path string){
		"garbage": func(t *testing.T, path string) { write(t, path, []byte(strings.Repeat("no database ", 4096))) },
		"short":   func(t *testing.T, path string) { write(t, path, []byte("short")) },
		"zeros":   func(t *testing.T, path string) { write(t, path, make([]byte, 1<<16)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "db")
			damage(t, path)
			db := open(t, path)
			db.Put("a", "k", []byte("v"))
			if err := db.Flush(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(path + ".damaged"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Pages that are damaged below a sound head are found only when they are read or written.
func TestDamageFoundLater(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	for i := range 2000 {
		db.Put("a", fmt.Sprintf("key-%05d", i), []byte("value"))
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, _ := f.Stat()
	for at := int64(2 * os.Getpagesize()); at < info.Size(); at += 512 {
		_, _ = f.WriteAt([]byte(strings.Repeat("\xff", 512)), at)
	}
	f.Close()

	db = open(t, path)
	scan(db, "a", "")
	db.Get("a", "key-00001")
	db.Put("a", "new", []byte("v"))
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	if value, _ := db.Get("a", "new"); string(value) != "v" {
		t.Errorf("got %q", value)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	open(t, path)
	if _, err := durable.OpenDB(path, nil); err == nil {
		t.Error("opened twice")
	}
	if _, err := os.Stat(path + ".damaged"); err == nil {
		t.Error("a database in use was taken for a damaged one")
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "db"))
	want := map[string]string{}
	for w := range 4 {
		for i := range 50 {
			want[fmt.Sprint(w, "-", i)] = "v"
		}
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 50 {
				key := fmt.Sprint(w, "-", i)
				db.Put("a", key, []byte("v"))
				if i%10 == 0 {
					if err := db.Flush(); err != nil {
						t.Error(err)
					}
				}
				if _, ok := db.Get("a", key); !ok {
					t.Errorf("%s is not seen", key)
				}
			}
		})
	}
	wg.Wait()
	if got := scan(db, "a", ""); !maps.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
