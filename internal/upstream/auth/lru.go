package auth

import (
	"container/list"
	"sync"
)

// lru is a map that forgets what was used longest ago once it holds more than limit.
type lru[K comparable, V any] struct {
	limit int

	// mu guards the fields that follow. It is never held across I/O.
	mu    sync.Mutex
	order *list.List // of *lruItem, the last used first
	items map[K]*list.Element
}

type lruItem[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{limit: limit, order: list.New(), items: make(map[K]*list.Element)}
}

func (l *lru[K, V]) get(key K) (value V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.items[key]
	if !ok {
		return value, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*lruItem[K, V]).value, true
}

func (l *lru[K, V]) put(key K, value V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.items[key]; ok {
		e.Value.(*lruItem[K, V]).value = value
		l.order.MoveToFront(e)
		return
	}
	l.items[key] = l.order.PushFront(&lruItem[K, V]{key, value})
	if l.order.Len() > l.limit {
		last := l.order.Back()
		l.order.Remove(last)
		delete(l.items, last.Value.(*lruItem[K, V]).key)
	}
}

// drop forgets key if its value is one that gone reports, and reports whether it did.
func (l *lru[K, V]) drop(key K, gone func(V) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.items[key]
	if !ok || !gone(e.Value.(*lruItem[K, V]).value) {
		return false
	}
	l.order.Remove(e)
	delete(l.items, key)
	return true
}

// clear forgets everything.
func (l *lru[K, V]) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.order.Init()
	clear(l.items)
}

// each calls f, which must not call l, with everything in no order.
func (l *lru[K, V]) each(f func(K, V)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, e := range l.items {
		f(key, e.Value.(*lruItem[K, V]).value)
	}
}
