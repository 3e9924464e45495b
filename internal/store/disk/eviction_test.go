package disk

import (
	"container/list"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store/storetest"
)

// request is a pull of a blob in a trace.
type request struct {
	id   int
	size int64
}

// evictor is a policy under test: a cache of some bytes.
type evictor interface {
	// request reports a hit, and takes a miss in.
	request(r request) bool
}

// s3fifo is the store's own policy.
type s3fifo struct {
	policy   *policy
	entries  map[int]*entry
	ids      map[*entry]int
	capacity int64
}

func newS3FIFO(capacity int64) evictor {
	return &s3fifo{policy: newPolicy(), entries: map[int]*entry{}, ids: map[*entry]int{}, capacity: capacity}
}

func (c *s3fifo) request(r request) bool {
	if e := c.entries[r.id]; e != nil {
		c.policy.hit(e)
		return true
	}
	for c.policy.small.bytes+c.policy.main.bytes+r.size > c.capacity {
		e := c.policy.victim(func(*entry) bool { return true })
		if e == nil {
			return false
		}
		c.policy.remove(e)
		delete(c.entries, c.ids[e])
		delete(c.ids, e)
	}
	e := &entry{digest: oci.Digest(fmt.Sprintf("sha256:%064x", r.id)), size: r.size}
	c.policy.add(e)
	c.entries[r.id], c.ids[e] = e, r.id
	return false
}

// simple is a queue of blobs, the first to be evicted at its front: with recency LRU, without it FIFO.
type simple struct {
	recency         bool
	order           *list.List
	entries         map[int]*list.Element
	bytes, capacity int64
}

func newLRU(capacity int64) evictor {
	return &simple{recency: true, order: list.New(), entries: map[int]*list.Element{}, capacity: capacity}
}

func newFIFO(capacity int64) evictor {
	return &simple{order: list.New(), entries: map[int]*list.Element{}, capacity: capacity}
}

func (c *simple) request(r request) bool {
	if e := c.entries[r.id]; e != nil {
		if c.recency {
			c.order.MoveToBack(e)
		}
		return true
	}
	for c.bytes+r.size > c.capacity && c.order.Len() > 0 {
		old := c.order.Remove(c.order.Front()).(request)
		c.bytes -= old.size
		delete(c.entries, old.id)
	}
	if r.size <= c.capacity {
		c.entries[r.id] = c.order.PushBack(r)
		c.bytes += r.size
	}
	return false
}

// trace is a sequence of requests, and a cache to replay it on.
type trace struct {
	name     string
	requests []request
	capacity int64
}

// tracer makes traces. What it makes is the same every time.
type tracer struct {
	r     *rand.Rand
	sizes map[int]int64
	out   []request
	next  int // an id that nobody has used
}

func newTracer(seed uint64) *tracer {
	return &tracer{r: rand.New(rand.NewPCG(seed, 0)), sizes: map[int]int64{}, next: 1 << 30}
}

// size of a blob: layers are spread over orders of magnitude, with a median of some 3 MiB (log-normal), up to 1 GiB.
func (x *tracer) size(id int) int64 {
	size, ok := x.sizes[id]
	if !ok {
		size = int64(min(1<<30, math.Exp(15+2*x.r.NormFloat64())))
		x.sizes[id] = max(size, 500)
	}
	return x.sizes[id]
}

func (x *tracer) pull(id int) { x.out = append(x.out, request{id, x.size(id)}) }

// fresh returns an id that was never pulled.
func (x *tracer) fresh() int { x.next++; return x.next }

// scan pulls so many bytes once.
func (x *tracer) scan(bytes int64) {
	for bytes > 0 {
		id := x.fresh()
		x.pull(id)
		bytes -= x.size(id)
	}
}

// total is the size of all blobs.
func (x *tracer) total() (n int64) {
	for _, size := range x.sizes {
		n += size
	}
	return n
}

// zipf draws ranks with a popularity of 1/rank^s, also for s up to 1, which math/rand/v2 does not do.
type zipf struct {
	r   *rand.Rand
	cdf []float64
}

func newZipf(r *rand.Rand, s float64, n int) *zipf {
	z := &zipf{r: r, cdf: make([]float64, n)}
	sum := 0.0
	for i := range z.cdf {
		sum += 1 / math.Pow(float64(i+1), s)
		z.cdf[i] = sum
	}
	return z
}

func (z *zipf) draw() int {
	x := z.r.Float64() * z.cdf[len(z.cdf)-1]
	low, high := 0, len(z.cdf)-1
	for low < high {
		if mid := (low + high) / 2; z.cdf[mid] < x {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// zipfTrace is independent pulls of popular and less popular blobs.
func zipfTrace(s float64, share float64) trace {
	x := newTracer(uint64(s * 100))
	z := newZipf(x.r, s, 10_000)
	for range 200_000 {
		x.pull(z.draw())
	}
	return trace{fmt.Sprintf("Zipf %.1f, cache %.0f %%", s, 100*share), x.out, int64(share * float64(x.total()))}
}

// zipfScans is the same with a scan of twice the cache after every 20,000 pulls: a mirror job, a CI that pulls everything.
func zipfScans(s float64) trace {
	x := newTracer(uint64(s*100) + 1)
	z := newZipf(x.r, s, 10_000)
	for range 10_000 {
		x.size(x.r.IntN(10_000))
	}
	capacity := x.total() / 10
	for i := range 200_000 {
		x.pull(z.draw())
		if i%20_000 == 19_999 {
			x.scan(2 * capacity)
		}
	}
	return trace{fmt.Sprintf("Zipf %.1f with scans", s), x.out, capacity}
}

// oneHits is popular blobs among three times as many that are pulled once, as by builds that push what they made.
func oneHits() trace {
	x := newTracer(7)
	z := newZipf(x.r, 1, 5_000)
	for range 60_000 {
		x.pull(z.draw())
		for range 3 {
			x.pull(x.fresh())
		}
	}
	return trace{"3 of 4 pulls are the only one", x.out, x.total() / 100}
}

// drift is a popularity that moves: what was popular is not any more, as with releases of an application.
func drift() trace {
	x := newTracer(8)
	z := newZipf(x.r, 1, 2_000)
	for i := range 200_000 {
		x.pull(i/50 + z.draw())
	}
	return trace{"popularity that drifts", x.out, x.total() / 20}
}

// loop is the same images again and again, a little more than the cache holds: a nightly job.
func loop() trace {
	x := newTracer(9)
	for range 40 {
		for id := range 2_000 {
			x.pull(id)
		}
	}
	return trace{"a loop, cache 90 %", x.out, x.total() * 9 / 10}
}

// bursts are blobs that ten nodes pull in short order and nobody later, among some that stay popular.
func bursts(name string, window int) trace {
	x := newTracer(10)
	z := newZipf(x.r, 1, 1_000)
	var current []int
	for i := range 200_000 {
		if i%10 == 0 {
			current = append(current, x.fresh())
			current = current[max(0, len(current)-window):]
		}
		if x.r.IntN(2) == 0 {
			x.pull(z.draw())
		} else {
			x.pull(current[x.r.IntN(len(current))])
		}
	}
	return trace{name, x.out, x.total() / 50}
}

// cluster is what a proxy sees: images that share base layers, releases that replace each other and are pulled by many
// nodes over a while, nodes that come late, and builds that pull what nobody else does.
func cluster() trace {
	x := newTracer(11)
	const apps, bases, nodes = 120, 15, 40
	popular, base := newZipf(x.r, 0.9, apps), newZipf(x.r, 1, bases)
	release := make([][]int, apps)
	deploy := func(app int) {
		layers := []int{}
		first := base.draw() * 100
		for i := range 4 {
			layers = append(layers, first+i)
		}
		for range 3 {
			layers = append(layers, x.fresh())
		}
		manifest, config := x.fresh(), x.fresh()
		x.sizes[manifest], x.sizes[config] = 2_000, 8_000
		release[app] = append([]int{manifest, config}, layers...)
	}
	for app := range apps {
		deploy(app)
	}
	for i := range 40_000 {
		app := popular.draw()
		switch {
		case i%100 == 0: // a release goes to all nodes
			deploy(app)
			for range nodes {
				pullAll(x, release[app])
			}
		case i%10 < 3: // a build pulls an image that nobody else does
			for range 4 {
				x.pull(x.fresh())
			}
		default: // a node that was started, or has lost its images
			pullAll(x, release[app])
		}
	}
	return trace{"a cluster and its builds", x.out, x.total() / 50}
}

func pullAll(x *tracer, ids []int) {
	for _, id := range ids {
		x.pull(id)
	}
}

func traces() []trace {
	return []trace{
		zipfTrace(0.7, 0.1), zipfTrace(1.0, 0.01), zipfTrace(1.0, 0.1), zipfTrace(1.2, 0.1), zipfScans(0.8), zipfScans(1.0),
		oneHits(), drift(), loop(), bursts("bursts of pulls", 30), cluster(),
	}
}

// replay returns which part of the requests, and of their bytes, were hits.
func replay(c evictor, requests []request) (hits, bytes float64) {
	var all, hit int64
	n := 0
	for _, r := range requests {
		all += r.size
		if c.request(r) {
			n++
			hit += r.size
		}
	}
	return float64(n) / float64(len(requests)), float64(hit) / float64(all)
}

// No trace is below LRU. The table is the one of docs/eviction.md.
func TestEvictionBesideLRUAndFIFO(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	table.WriteString("| trace | S3-FIFO | LRU | FIFO | S3-FIFO, bytes | LRU, bytes | FIFO, bytes |\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, tr := range traces() {
		ownHits, ownBytes := replay(newS3FIFO(tr.capacity), tr.requests)
		lruHits, lruBytes := replay(newLRU(tr.capacity), tr.requests)
		fifoHits, fifoBytes := replay(newFIFO(tr.capacity), tr.requests)
		fmt.Fprintf(&table, "| %s | %.1f %% | %.1f %% | %.1f %% | %.1f %% | %.1f %% | %.1f %% |\n", tr.name,
			100*ownHits, 100*lruHits, 100*fifoHits, 100*ownBytes, 100*lruBytes, 100*fifoBytes)
		if ownHits < lruHits || ownBytes < lruBytes {
			t.Errorf("%s: %.2f %% of the pulls and %.2f %% of the bytes are hits, with LRU %.2f %% and %.2f %%",
				tr.name, 100*ownHits, 100*ownBytes, 100*lruHits, 100*lruBytes)
		}
	}
	t.Logf("\n%s", &table)
}

// LRU is the better policy where all that counts is how long ago a blob was pulled last, and where that is long: a third of
// the cache is in use by bursts that are still going on. It is better by little.
func TestEvictionWhereLRUIsBetter(t *testing.T) {
	t.Parallel()
	tr := bursts("bursts that last long", 150)
	ownHits, ownBytes := replay(newS3FIFO(tr.capacity), tr.requests)
	lruHits, lruBytes := replay(newLRU(tr.capacity), tr.requests)
	t.Logf("%s: %.1f %% of the pulls and %.1f %% of the bytes, with LRU %.1f %% and %.1f %%", tr.name, 100*ownHits, 100*ownBytes, 100*lruHits, 100*lruBytes)
	if ownHits < 0.92*lruHits || ownBytes < 0.9*lruBytes {
		t.Error("it is better by more than is written in docs/eviction.md")
	}
}

// A scan of ten times the cache leaves the hot set where it is.
func TestHotSetSurvivesScan(t *testing.T) {
	t.Parallel()
	survives := func(c evictor, capacity int64) float64 {
		x := newTracer(1)
		z := newZipf(x.r, 1, 300) // they fit
		hot := func(pulls int) (hits int) {
			for range pulls {
				if c.request(request{z.draw(), capacity / 400}) {
					hits++
				}
			}
			return hits
		}
		hot(20_000)
		before := hot(1000)
		x.scan(10 * capacity)
		for _, r := range x.out {
			c.request(r)
		}
		return float64(hot(1000)) / float64(before)
	}
	const capacity = 4 << 30
	own, lru, fifo := survives(newS3FIFO(capacity), capacity), survives(newLRU(capacity), capacity), survives(newFIFO(capacity), capacity)
	t.Logf("of the hits in 1,000 pulls, after a scan of ten times the cache: %.1f %%, LRU %.1f %%, FIFO %.1f %%", 100*own, 100*lru, 100*fifo)
	if own < 0.9 || own < lru {
		t.Errorf("after a scan of ten times the cache %.1f %% of the hits remain, with LRU %.1f %%", 100*own, 100*lru)
	}
}

// The hot set stays in a store too, over a restart in the middle: the policy's state is in its records.
func TestHotSetSurvivesScanOverRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var s *Store
	restart := func() {
		if s != nil {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if s, err = Open(Config{Directory: dir, MaxSize: 2 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	restart()
	hot := func() (hits int) {
		for i := range uint64(20) {
			b, err := s.Open(oci.FromBytes(storetest.Bytes(i, 40_000)))
			if err == nil {
				hits++
				_ = b.Close()
			}
		}
		return hits
	}
	for i := range uint64(20) {
		storetest.Put(t, s, storetest.Bytes(i, 40_000))
	}
	hot()
	restart()
	for i := range uint64(400) {
		storetest.Put(t, s, storetest.Bytes(1000+i, 40_000))
		if i == 150 {
			s.saveTouched(1 << 20)
			restart()
		}
	}
	if hits := hot(); hits < 18 {
		t.Errorf("%d of 20 hot blobs are left after a scan", hits)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// However many blobs were used, an upkeep writes some of them, and the next ones the rest.
func TestLastUsesAreWrittenInTurns(t *testing.T) {
	t.Parallel()
	const many = 2*touchedAtOnce + touchedAtOnce/2
	dir := t.TempDir()
	manyBlobs(t, dir, many, false)
	s, err := Open(Config{Directory: dir, MaxSize: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	later := s.now().Add(time.Hour).Unix()
	s.loaded()
	s.mu.Lock()
	for _, e := range s.index {
		s.use(e, later)
	}
	s.mu.Unlock()
	written := func() (n int) {
		s.db.Scan(bucketBlobs, "", func(key string, value []byte) bool {
			if e, ok := parseRecord(oci.Digest(key), value); ok && e.used == later {
				n++
			}
			return true
		})
		return n
	}
	for _, want := range []int{touchedAtOnce, 2 * touchedAtOnce, many, many} {
		s.upkeep()
		if n := written(); n != want {
			t.Errorf("%d are written, want %d", n, want)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
