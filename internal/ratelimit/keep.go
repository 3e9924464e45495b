package ratelimit

import (
	"encoding/json"
	"strings"

	"container-registry-proxy/internal/oci"
)

// bucket holds cool-downs: registry, class, name, kind → cooldown as JSON.
const bucket = "cooldowns"

// String is the key in the database.
func (k key) String() string {
	return strings.Join([]string{string(k.registry), k.account.Class, k.account.Name, string(k.kind)}, "\x00")
}

// remember writes a cool-down down. Those of own accounts are not: their names are of this process alone.
func (w *Watch) remember(k key, c *cooldown) {
	if w.cfg.DB == nil || k.account.Class == classOwn {
		return
	}
	b, err := json.Marshal(c)
	if err != nil {
		return // a header and bytes always marshal
	}
	w.cfg.DB.Put(bucket, k.String(), b)
}

// classOwn is the class of clients' own accounts.
const classOwn = "own"

// recall reads the cool-downs that still last.
func (w *Watch) recall() {
	if w.cfg.DB == nil {
		return
	}
	now := w.cfg.Now()
	var over []string
	w.cfg.DB.Scan(bucket, "", func(name string, value []byte) bool {
		c, f := &cooldown{}, strings.Split(name, "\x00")
		lasts := json.Unmarshal(value, c) == nil && len(f) == 4 && len(w.cooling) < maxWatched && c.left(now) > 0 && c.Until.Sub(now) <= maxRetryAfter
		if !lasts {
			over = append(over, name)
			return true
		}
		w.cooling[key{oci.Registry(f[0]), Account{f[1], f[2]}, Kind(f[3])}] = c
		return true
	})
	for _, name := range over {
		w.cfg.DB.Delete(bucket, name)
	}
}
