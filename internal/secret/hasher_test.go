package secret

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestAKeyOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	first, err := OpenHasher(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenHasher(path)
	if err != nil {
		t.Fatal(err)
	}
	s := New("Basic YWxpY2U6c2VjcmV0")
	if first.Key(s) != again.Key(s) {
		t.Error("the same key makes two fingerprints of one secret")
	}
	if first.Key(s) == NewHasher().Key(s) || first.Key(s) == s.Key() || first.Key(s) == first.Key(New("other")) {
		t.Error("two fingerprints are equal that must not be")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, want mode 0600", info.Mode(), err)
	}
}

// A key that others may have read, or that is none, is replaced; what cannot be replaced is an error.
func TestAKeyThatIsNoneIsReplaced(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"readable for all": func(path string) error { return os.Chmod(path, 0o644) },
		"cut short":        func(path string) error { return os.Truncate(path, 7) },
		"a link": func(path string) error {
			if err := os.Rename(path, path+".else"); err != nil {
				return err
			}
			return os.Symlink(path+".else", path)
		},
	} {
		path := filepath.Join(t.TempDir(), "key")
		before, err := OpenHasher(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := spoil(path); err != nil {
			t.Fatal(err)
		}
		after, err := OpenHasher(path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if before.Key(New("x")) == after.Key(New("x")) {
			t.Errorf("%s: the key is still used", name)
		}
		kept, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(kept, after.key[:]) {
			t.Errorf("%s: the new key is not kept: %v", name, err)
		}
	}
	if _, err := OpenHasher(filepath.Join(t.TempDir(), "nowhere", "key")); err == nil {
		t.Error("no error where nothing can be kept")
	}
}
