package durable_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// mapped is how many bytes of a mapped file are this process's memory.
func mapped(t *testing.T, path string) (n int) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for lines := bufio.NewScanner(bytes.NewReader(maps)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case !strings.HasSuffix(fields[0], ":"):
			ours = fields[len(fields)-1] == path
		case ours && fields[0] == "Rss:":
			kib, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			n += kib << 10
		}
	}
	return n
}

// A process that has read the whole file is as large as before; nothing is lost of what was written.
func TestForget(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	db := open(t, path)
	for i := range 1000 {
		db.Put("a", fmt.Sprint(i), bytes.Repeat([]byte{byte(i)}, 4000))
	}
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	db.Put("a", "0", []byte("newer"))
	db.Delete("a", "1")
	if n := len(scan(db, "a", "")); n != 999 {
		t.Fatalf("%d records", n)
	}
	if n := mapped(t, path); n < 1<<20 {
		t.Fatalf("%d bytes are mapped: this measures nothing", n)
	}
	if err := db.Forget(); err != nil {
		t.Fatal(err)
	}
	if n := mapped(t, path); n > 256<<10 {
		t.Errorf("%d bytes are mapped still", n)
	}
	if got := scan(db, "a", ""); len(got) != 999 || got["0"] != "newer" || len(got["2"]) != 4000 {
		t.Errorf("%d records, %q", len(got), got["0"])
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Forget(); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

// A proxy forgets while it serves, and connections may take all the files that it may have.
func TestForgetWithoutAFileToSpare(t *testing.T) { // not parallel: nobody else can open a file
	db := open(t, filepath.Join(t.TempDir(), "db"))
	db.Put("a", "key", []byte("value"))
	if err := db.Flush(); err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	err := db.Forget()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if value, _ := db.Get("a", "key"); string(value) != "value" || err != nil {
		t.Errorf("%q is known, %v", value, err)
	}
}
