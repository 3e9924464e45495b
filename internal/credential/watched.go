package credential

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// lookEvery bounds how often a file is looked at.
	lookEvery = time.Second
	// settled is how long after its last change a file is read anew although nothing about it has changed: file systems
	// date changes by a clock that may stand still for some milliseconds, or seconds.
	settled = 3 * time.Second
	// maxSecretFile bounds a file. Service account keys have 2 KiB, a config.json with many logins some 100 KiB.
	maxSecretFile = 1 << 20
)

// watched is a file that is read again when it has changed, by a look at it at most once a second. It keeps no
// descriptor and follows links each time, so that a file may be replaced as Kubernetes replaces them.
type watched[T any] struct {
	path   string
	parse  func([]byte) (T, error)
	label  string
	report *reporter

	flight singleflight.Group // of looks
	now    atomic.Pointer[reading[T]]
}

// reading is what a look at a file has found.
type reading[T any] struct {
	value  T
	held   bool  // there is a value
	err    error // of the last reading
	info   os.FileInfo
	read   time.Time
	looked time.Time
}

// newWatched returns the file as it is now.
func newWatched[T any](path string, parse func([]byte) (T, error), label string, report *reporter) *watched[T] {
	w := &watched[T]{path: path, parse: parse, label: label, report: report}
	w.now.Store(&reading[T]{})
	w.look(true)
	return w
}

// get is what the file holds: its last good content while it cannot be read or understood, nothing once it is gone.
func (w *watched[T]) get() (T, error) {
	w.look(false)
	r := w.now.Load()
	if r.held {
		return r.value, nil
	}
	return r.value, r.err
}

// look reads the file if it has changed. Unless it must, it believes a look that is less than a second old.
func (w *watched[T]) look(must bool) {
	if !must && time.Since(w.now.Load().looked) < lookEvery {
		return
	}
	_, _, _ = w.flight.Do("", func() (any, error) {
		w.now.Store(w.next(w.now.Load()))
		return nil, nil
	})
}

// next is what a look finds after before.
func (w *watched[T]) next(before *reading[T]) *reading[T] {
	after := *before
	after.looked = time.Now()
	info, err := os.Stat(w.path)
	if err == nil && before.err == nil && before.same(info) {
		return &after
	}
	after.info, after.read = info, after.looked
	var value T
	if err == nil {
		value, err = w.open(info)
	}
	after.err = w.explain(err)
	w.report.file(w.label, after.err, before.err)
	switch {
	case err == nil:
		after.value, after.held = value, true
	case errors.Is(err, fs.ErrNotExist):
		after.value, after.held = value, false
	}
	return &after
}

// same reports whether the file is as it was when it was read.
func (r *reading[T]) same(info os.FileInfo) bool {
	return r.info != nil && os.SameFile(r.info, info) && r.info.Size() == info.Size() && r.info.ModTime().Equal(info.ModTime()) &&
		r.read.Sub(info.ModTime()) > settled
}

func (w *watched[T]) open(info os.FileInfo) (value T, err error) {
	if !info.Mode().IsRegular() {
		return value, errors.New("not a regular file")
	}
	f, err := os.Open(w.path)
	if err != nil {
		return value, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return value, err
	}
	if len(content) > maxSecretFile {
		return value, fmt.Errorf("larger than %d bytes", maxSecretFile)
	}
	return w.parse(content)
}

// explain names the file; the parsers' own errors show nothing of what is in it.
func (w *watched[T]) explain(err error) error {
	if err == nil {
		return nil
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	return fmt.Errorf("%s: %w", w.path, err)
}

// parseSecret takes a file's content for a secret. One line end at the end is no part of it.
func parseSecret(content []byte) (string, error) {
	text := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if text == "" {
		return "", errors.New("is empty")
	}
	return text, nil
}
