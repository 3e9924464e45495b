package client

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"container-registry-proxy/internal/secret"
)

const (
	// maxCost bounds the work of one check: a second or so.
	maxCost = 14
	// checkedFor is how long the outcome of a check is believed.
	checkedFor = 5 * time.Minute
	// maxChecked bounds the outcomes that are remembered.
	maxChecked = 4096
)

// Users are names and the bcrypt hashes of their passwords. They are safe for concurrent use.
type Users struct {
	hashes map[string][]byte
	dummy  []byte        // for those who are none, so that it takes as long to find out
	slots  chan struct{} // holds one for each check in progress: passwords that are tried take no more of the machine

	mu      sync.Mutex // guards checked
	checked map[secret.Key]outcome
}

type outcome struct {
	good bool
	at   time.Time
}

// ParseUsers reads the lines of an htpasswd file: a name, a colon and a bcrypt hash, as "htpasswd -B" writes them. Errors
// show no hash.
func ParseUsers(content []byte) (*Users, error) {
	u := &Users{hashes: map[string][]byte{}, slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), checked: map[secret.Key]outcome{}}
	for i, line := range strings.Split(string(content), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, found := strings.Cut(line, ":")
		if !found || name == "" {
			return nil, fmt.Errorf("line %d: want name:hash, as htpasswd -B writes it", i+1)
		}
		cost, err := bcrypt.Cost([]byte(hash))
		switch {
		case err != nil:
			return nil, fmt.Errorf("line %d: the password of %q is not hashed with bcrypt: want htpasswd -B", i+1, name)
		case cost > maxCost:
			return nil, fmt.Errorf("line %d: the password of %q costs 2^%d to check: want %d at most, such as htpasswd -B -C 10", i+1, name, cost, maxCost)
		case u.hashes[name] != nil:
			return nil, fmt.Errorf("line %d: %q is there twice: want it once", i+1, name)
		}
		u.hashes[name] = []byte(hash)
		u.dummy = []byte(hash)
	}
	if len(u.hashes) == 0 {
		return nil, errors.New("names no user: want lines of name:hash, as htpasswd -B writes them")
	}
	return u, nil
}

// Check reports whether a password is the user's. It waits for its turn, until ctx ends.
func (u *Users) Check(ctx context.Context, user string, password secret.String) bool {
	key := secret.New(user + ":" + password.Reveal()).Key() // no name of ours has a colon
	if good, ok := u.recall(key); ok {
		return good
	}
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		return false
	}
	if good, ok := u.recall(key); ok { // another has asked the same
		return good
	}
	hash, known := u.hashes[user]
	if !known {
		hash = u.dummy
	}
	good := bcrypt.CompareHashAndPassword(hash, []byte(password.Reveal())) == nil && known
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.checked) >= maxChecked {
		clear(u.checked)
	}
	u.checked[key] = outcome{good, time.Now()}
	return good
}

func (u *Users) recall(key secret.Key) (good, known bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	o, ok := u.checked[key]
	return o.good, ok && time.Since(o.at) < checkedFor
}
