package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
)

// leftover is what a stage that has ended, here or in an earlier process, left of its blob.
type leftover struct {
	stagedRecord
	digest oci.Digest
	bytes  int64 // on the account
	have   store.Extents
}

// stagedRecord is what the database keeps of a file in staging. What it says is there has been synced:
//
//	{"name":"sha256-abcdef….12345","size":1048576,"have":[{"Start":0,"End":65536}],"used":1790000000,"source":"quay.io org/app"}
type stagedRecord struct {
	Name string        `json:"name"`
	Size int64         `json:"size"`
	Have store.Extents `json:"have"`
	Used int64         `json:"used"` // unix seconds
	// Source is what the stage's user said of where the bytes come from.
	Source string `json:"source,omitempty"`
}

const (
	// leftoverShare is the part of the limit that leftovers may hold; they are evicted before anything else.
	leftoverShare = 0.25
	// maxLeftovers bounds their number, and so what a start has to look at.
	maxLeftovers = 1000
	// leftoverAge is how long a leftover is kept that nobody takes up.
	leftoverAge = 7 * 24 * time.Hour
	// checkpointBytes is how much a stage holds that a crash would lose before it is synced.
	checkpointBytes = 1 << 20
)

// stagedPrefix begins the names of the staged files of a digest.
func stagedPrefix(d oci.Digest) string { return d.Algorithm() + "-" + d.Hex() + "." }

// probeName is the name of a file that is written to see whether the disk works.
const probeName = "probe"

// stagedName reports whether a file in staging has a name that we give.
func stagedName(name string) bool {
	if name == probeName {
		return true
	}
	base, _, ok := strings.Cut(name, ".")
	_, err := oci.ParseDigest(strings.Replace(base, "-", ":", 1))
	return ok && err == nil
}

// loadStaging takes in what earlier processes have staged and removes what no record tells of.
func (s *Store) loadStaging() error {
	files, err := os.ReadDir(s.dir.staging())
	if err != nil {
		return fmt.Errorf("read %s: %w", s.dir.staging(), err)
	}
	known := map[string]bool{}
	for _, l := range s.recordedLeftovers() {
		known[l.Name] = true
		s.leftovers = append(s.leftovers, l)
		s.space.staged += l.bytes
	}
	for _, file := range files {
		if known[file.Name()] || !stagedName(file.Name()) {
			continue
		}
		if err := s.unlink(s.dir.staged(file.Name())); err != nil {
			s.log.Warn("remove staged file", "name", file.Name(), "err", err)
		}
	}
	return nil
}

// recordedLeftovers returns the leftovers that are what their records say, the oldest first.
func (s *Store) recordedLeftovers() []*leftover {
	var found, wrong []*leftover
	s.db.Scan(bucketStaged, "", func(key string, value []byte) bool {
		l := &leftover{digest: oci.Digest(key)}
		if err := json.Unmarshal(value, &l.stagedRecord); err != nil || !s.intact(l) {
			wrong = append(wrong, l)
			return true
		}
		l.have = slices.Clone(l.Have)
		found = append(found, l)
		return true
	})
	for _, l := range wrong {
		s.db.Delete(bucketStaged, string(l.digest))
	}
	slices.SortFunc(found, func(a, b *leftover) int { return int(a.Used - b.Used) })
	return found
}

// intact reports whether a record makes sense and its file is at least as long as it says.
func (s *Store) intact(l *leftover) bool {
	d, err := oci.ParseDigest(string(l.digest))
	if err != nil || !strings.HasPrefix(l.Name, stagedPrefix(d)) || strings.Contains(l.Name, "/") {
		return false
	}
	var last int64 = -1
	for _, x := range l.Have {
		if x.Start <= last || x.Start >= x.End || x.End > l.Size {
			return false
		}
		last = x.End
	}
	info, err := statFile(s.dir.staged(l.Name))
	if err != nil || last < 0 || info.Size() < last {
		return false
	}
	l.bytes = footprint(l.Have)
	return true
}

// takeLeftover takes the leftover of a digest off the list, but not off the account. The caller holds mu.
func (s *Store) takeLeftover(d oci.Digest) *leftover {
	i := slices.IndexFunc(s.leftovers, func(l *leftover) bool { return l.digest == d })
	if i < 0 {
		return nil
	}
	l := s.leftovers[i]
	s.leftovers = slices.Delete(s.leftovers, i, i+1)
	return l
}

// staleLeftovers is the space that stages which have ended still hold. The caller holds mu.
func (s *Store) staleLeftovers() (n int64) {
	for _, l := range s.leftovers {
		n += l.bytes
	}
	return n
}

// Leftover is the size of the blob of which something is left in staging.
func (s *Store) Leftover(d oci.Digest) (size int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.leftovers, func(l *leftover) bool { return l.digest == d })
	if i < 0 {
		return 0, false
	}
	return s.leftovers[i].Size, true
}

// forgetLeftover takes a leftover off the account, but not off the list. The caller holds mu.
func (s *Store) forgetLeftover(l *leftover) {
	s.space.staged -= l.bytes
	s.db.Delete(bucketStaged, string(l.digest))
}

// discardLeftover removes one that is off the list.
func (s *Store) discardLeftover(l *leftover) {
	s.mu.Lock()
	s.forgetLeftover(l)
	s.mu.Unlock()
	if err := s.removeStaged(l.Name); err != nil && !errors.Is(err, errReleased) {
		s.log.Warn("remove staged file", "digest", l.digest, "err", err)
	}
}

// leave turns a stage into a leftover, and reports whether it did: there must be something of use.
func (st *stage) leave() bool {
	s := st.store
	st.mu.Lock()
	have, synced, broken, source := slices.Clone(st.have), st.synced, st.broken, st.source
	st.mu.Unlock()
	s.mu.Lock()
	if s.stages[st.digest] != st || st.size < 0 || st.memory != nil || len(have) == 0 || broken != nil {
		s.mu.Unlock()
		return false
	}
	l := &leftover{digest: st.digest, have: have, bytes: footprint(have)}
	l.stagedRecord = stagedRecord{Name: st.name, Size: st.size, Have: synced, Used: s.now().Unix(), Source: source}
	s.settle(st)
	s.space.staged += l.bytes
	s.leftovers = append(s.leftovers, l)
	s.boundLeftovers()
	s.mu.Unlock()
	s.unlinkEvicted()
	return true
}

// boundLeftovers evicts the oldest while they are too many, too large or too old. The caller holds mu and calls
// unlinkEvicted without it.
func (s *Store) boundLeftovers() {
	oldest := s.now().Add(-leftoverAge).Unix()
	for len(s.leftovers) > 0 {
		l := s.leftovers[0]
		if len(s.leftovers) <= maxLeftovers && l.Used >= oldest && float64(s.staleLeftovers()) <= leftoverShare*float64(s.space.limit) {
			return
		}
		s.evictLeftover()
	}
}

// evictLeftover takes the oldest off the list and the account. The caller holds mu and calls unlinkEvicted without it.
func (s *Store) evictLeftover() *leftover {
	l := s.leftovers[0]
	s.leftovers = s.leftovers[1:]
	s.forgetLeftover(l)
	s.evicted = append(s.evicted, evicted{staged: l.Name, bytes: l.bytes})
	return l
}

// checkpoint syncs what the stages have written, and has the records say so.
func (s *Store) checkpoint() {
	s.mu.Lock()
	stages := make([]*stage, 0, len(s.stages))
	for _, st := range s.stages {
		if st.size >= 0 {
			stages = append(stages, st)
		}
	}
	s.mu.Unlock()
	saved := false
	for _, st := range stages {
		saved = st.checkpoint() || saved
	}
	if saved && s.db.Flush() == nil { // the database's own loop reports what keeps it from being written
		s.metrics.checkpoints.Inc()
	}
}

// checkpoint makes a crash lose no more than what is written from now on, and reports whether there was anything. A file
// that cannot be synced is dropped.
func (st *stage) checkpoint() bool {
	s := st.store
	st.mu.Lock()
	have, source := slices.Clone(st.have), st.source
	due := st.broken == nil && st.proven == nil && have.Total()-st.synced.Total() >= checkpointBytes
	st.mu.Unlock()
	if !due {
		return false
	}
	st.files.RLock()
	file := st.file
	st.files.RUnlock()
	if err := s.run("fsync", file.Sync); err != nil {
		if !errors.Is(err, fs.ErrClosed) {
			st.drop(s.trouble(fmt.Errorf("stage %s: %w", st.digest, err)))
		}
		return false
	}
	st.mu.Lock()
	st.synced = have
	st.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stages[st.digest] == st {
		s.record(st.digest, stagedRecord{st.name, st.size, have, s.now().Unix(), source})
	}
	return true
}

// record writes what is staged of a digest, all of it synced, to the database. The caller holds mu.
func (s *Store) record(d oci.Digest, r stagedRecord) {
	value, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers
	}
	s.db.Put(bucketStaged, string(d), value)
}

// syncLeftovers syncs the leftovers that are not, and has the records say so.
func (s *Store) syncLeftovers() {
	s.mu.Lock()
	var due []*leftover
	for _, l := range s.leftovers {
		if l.Have.Total() < l.have.Total() {
			due = append(due, l)
		}
	}
	s.mu.Unlock()
	for _, l := range due {
		err := s.syncStaged(l.Name)
		s.mu.Lock()
		switch {
		case !slices.Contains(s.leftovers, l): // taken up or evicted meanwhile
		case err != nil:
			s.takeLeftover(l.digest)
			s.forgetLeftover(l)
			s.evicted = append(s.evicted, evicted{staged: l.Name, bytes: l.bytes})
		default:
			l.Have = l.have
			s.record(l.digest, l.stagedRecord)
		}
		s.mu.Unlock()
		if err != nil {
			s.unlinkEvicted()
			if !errors.Is(err, fs.ErrNotExist) {
				_ = s.trouble(fmt.Errorf("sync what is staged: %w", err))
			}
		}
	}
}

// syncStaged syncs a file that its stage has closed. An error of its earlier writes that nobody has seen is reported
// here: it belongs to the file, not to who has it open.
func (s *Store) syncStaged(name string) error {
	f, _, err := openFile(s.dir.staged(name), os.O_RDWR)
	if err != nil {
		return err
	}
	err = s.run("fsync", f.Sync)
	return errors.Join(err, f.Close())
}
