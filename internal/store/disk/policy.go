package disk

import (
	"hash/maphash"
	"strings"
)

// policy orders blobs for eviction, so that a flood of blobs that are used once does not flush those that are used again
// and again. It is S3-FIFO (Yang et al., SOSP 2023): a new blob enters a small queue, and what is not used again while it
// passes through leaves first. What is, moves to the main queue, where each use buys another round. A ghost remembers what left
// the small queue of late: should it return, it goes to the main queue at once.
//
// It is not safe for concurrent use: Store.mu guards it.
type policy struct {
	small, main queue
	ghost       ghost
}

const (
	// smallShare is the part of all bytes that the small queue may hold before it gives up its oldest. The paper has 0.1;
	// a little more keeps what the nodes of a cluster pull one after the other until the last of them has come, and costs
	// half a point of hits elsewhere (docs/eviction.md).
	smallShare = 0.15
	// maxHits is how many rounds through the main queue uses can buy.
	maxHits = 3
)

func newPolicy() *policy { return &policy{ghost: newGhost()} }

// add takes in a blob that was not there.
func (p *policy) add(e *entry) {
	e.main = p.ghost.take(string(e.digest))
	p.queueOf(e).push(e)
}

// restore takes in a blob at the place it had when its record was written. Blobs are restored in the order of their last use.
func (p *policy) restore(e *entry) { p.queueOf(e).push(e) }

// hit notes a use.
func (p *policy) hit(e *entry) { e.hits = min(e.hits+1, maxHits) }

// remove forgets a blob.
func (p *policy) remove(e *entry) { p.queueOf(e).remove(e) }

// victim returns the blob to evict next among those that evictable allows, or nil. It does not remove it.
func (p *policy) victim(evictable func(*entry) bool) *entry {
	// A blob is looked at once for each round its uses have bought, and once more; then all have been found to be in use.
	for looks := (p.small.count + p.main.count) * (maxHits + 2); looks > 0; looks-- {
		if float64(p.small.bytes) > smallShare*float64(p.small.bytes+p.main.bytes) || p.main.count == 0 {
			e := p.small.oldest()
			switch {
			case e == nil:
				return nil
			case e.hits > 0:
				p.promote(e)
			case !evictable(e):
				p.small.remove(e)
				p.small.push(e)
				if p.main.count > 0 { // all of the small queue may be in use
					if e := p.mainVictim(evictable); e != nil {
						return e
					}
				}
			default:
				p.ghost.put(string(e.digest), p.main.count+p.small.count)
				return e
			}
			continue
		}
		if e := p.mainVictim(evictable); e != nil {
			return e
		}
	}
	return nil
}

func (p *policy) promote(e *entry) {
	p.small.remove(e)
	e.hits, e.main = 0, true
	p.main.push(e)
}

// mainVictim looks at the oldest of the main queue, which goes another round if it was used or may not be evicted.
func (p *policy) mainVictim(evictable func(*entry) bool) *entry {
	e := p.main.oldest()
	if e.hits == 0 && evictable(e) {
		return e
	}
	if e.hits > 0 {
		e.hits--
	}
	p.main.remove(e)
	p.main.push(e)
	return nil
}

func (p *policy) queueOf(e *entry) *queue {
	if e.main {
		return &p.main
	}
	return &p.small
}

// queue is a list of entries by age, through their own links.
type queue struct {
	first, last *entry // the oldest, the newest
	count       int
	bytes       int64
}

func (q *queue) oldest() *entry { return q.first }

func (q *queue) push(e *entry) {
	e.prev, e.next = q.last, nil
	if q.last != nil {
		q.last.next = e
	} else {
		q.first = e
	}
	q.last = e
	q.count++
	q.bytes += e.size
}

func (q *queue) remove(e *entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		q.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		q.last = e.prev
	}
	e.prev, e.next = nil, nil
	q.count--
	q.bytes -= e.size
}

// ghost remembers hashes of digests that have left, the latest of them. A collision costs one blob its way through the
// small queue.
type ghost struct {
	seed  maphash.Seed
	known map[uint64]struct{}
	ring  []uint64
	next  int
}

// minGhosts is how many are remembered however few blobs there are.
const minGhosts = 1024

func newGhost() ghost { return ghost{seed: maphash.MakeSeed(), known: map[uint64]struct{}{}} }

// put remembers one, among the latest as many as there are blobs.
func (g *ghost) put(digest string, blobs int) {
	h := g.hash(digest)
	g.known[h] = struct{}{}
	if len(g.ring) < max(blobs, minGhosts) {
		g.ring = append(g.ring, h)
		return
	}
	delete(g.known, g.ring[g.next])
	g.ring[g.next] = h
	g.next = (g.next + 1) % len(g.ring)
}

// take reports whether one is remembered, and forgets it.
func (g *ghost) take(digest string) bool {
	h := g.hash(digest)
	_, ok := g.known[h]
	delete(g.known, h)
	return ok
}

func (g *ghost) hash(digest string) uint64 {
	_, hex, _ := strings.Cut(digest, ":")
	return maphash.String(g.seed, hex)
}
