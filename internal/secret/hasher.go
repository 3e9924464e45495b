package secret

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"container-registry-proxy/internal/durable"
)

// Hasher makes fingerprints of secrets that may be written down: they are keyed, so that whoever reads them cannot find
// out a secret by guessing. Hashers of one key make the same ones, in whatever process. It is safe for concurrent use.
type Hasher struct{ key [sha256.Size]byte }

// NewHasher returns a hasher with a key of its own, whose fingerprints mean nothing to any other.
func NewHasher() *Hasher {
	h := &Hasher{}
	_, _ = rand.Read(h.key[:]) // never fails: crypto/rand crashes the program instead
	return h
}

// OpenHasher returns a hasher with the key in the file at path, which is made if need be. A file that is not a key, or
// that others than its owner may have read, is replaced: what was hashed with it is worth nothing then.
func OpenHasher(path string) (*Hasher, error) {
	h := &Hasher{}
	err := h.read(path)
	if err == nil {
		return h, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNoKey) {
		return nil, fmt.Errorf("read key: %w", err)
	}
	h = NewHasher()
	if err := durable.WriteFile(path, h.key[:], 0o600); err != nil {
		return nil, fmt.Errorf("keep key: %w", err)
	}
	return h, nil
}

// errNoKey says that a file is none of ours.
var errNoKey = errors.New("not a key that only its owner may read")

func (h *Hasher) read(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return errNoKey
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || info.Size() != int64(len(h.key)) {
		return errNoKey
	}
	_, err = io.ReadFull(f, h.key[:])
	return err
}

// Key returns the fingerprint of s.
func (h *Hasher) Key(s String) Key {
	mac := hmac.New(sha256.New, h.key[:])
	_, _ = io.WriteString(mac, s.value)
	return Key(mac.Sum(nil))
}
