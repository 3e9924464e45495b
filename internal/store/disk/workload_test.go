package disk_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store"
	"container-registry-proxy/internal/store/disk"
	"container-registry-proxy/internal/store/storetest"
)

// workload stages and commits blobs from several goroutines, and says which.
type workload struct {
	seed uint64
	cfg  disk.Config
	// cut says that the power will be cut: a small blob counts as committed once it has been synced with others.
	cut bool

	mu       sync.Mutex // guards the fields that follow
	did      work
	unsynced []oci.Digest
}

// work is what a workload has done.
type work struct {
	begun     [][2]uint64 // seed and size of all blobs
	committed []oci.Digest

	// What was found afterwards.
	found   int
	resumed int64
}

// run works until interrupt has returned.
func (w *workload) run(interrupt func()) error {
	s, err := disk.Open(w.cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { _ = s.DB().Run(ctx) })
	all.Go(func() {
		for ctx.Err() == nil { // Run does so every few seconds
			w.upkeep(s)
			time.Sleep(20 * time.Millisecond)
		}
	})
	for i := range 6 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(w.seed, uint64(i)))
			for ctx.Err() == nil {
				w.one(s, r)
			}
		})
	}
	interrupt()
	cancel()
	all.Wait()
	_ = s.Close() // what it says of a disk without power is of no interest
	return nil
}

// upkeep syncs, among others, the small blobs that have been committed before.
func (w *workload) upkeep(s *disk.Store) {
	w.mu.Lock()
	due := w.unsynced
	w.unsynced = nil
	w.mu.Unlock()
	if s.Upkeep(); len(due) > 0 && s.Usage().Degraded == "" {
		w.say(func(did *work) { did.committed = append(did.committed, due...) })
	}
}

// one stages a blob, and commits it or leaves it.
func (w *workload) one(s *disk.Store, r *rand.Rand) {
	size := 1 << (10 + r.IntN(13))
	begun := [2]uint64{r.Uint64(), uint64(size + r.IntN(size))}
	data := storetest.Bytes(begun[0], int(begun[1]))
	d := oci.FromBytes(data)
	verifier := store.NewVerifier(d)
	_, _ = verifier.Write(data)
	proof, err := verifier.Proof()
	if err != nil {
		return
	}
	w.say(func(did *work) { did.begun = append(did.begun, begun) }, "begun", begun[0], begun[1])
	st, err := s.Stage(d, int64(len(data)))
	if err != nil {
		return
	}
	defer st.Close()
	leave := r.IntN(3) == 0
	const part = 256 << 10
	for i, n := range r.Perm((len(data) + part - 1) / part) { // in no order, so that the size of the file says nothing
		if leave && i*part > len(data)/2 {
			return
		}
		if _, err := st.WriteAt(data[n*part:min((n+1)*part, len(data))], int64(n*part)); err != nil {
			return
		}
		if leave {
			time.Sleep(time.Duration(r.IntN(10)) * time.Millisecond) // it takes a while
		}
	}
	if leave {
		return
	}
	err = st.Commit(context.Background(), proof)
	switch {
	case err != nil:
	case w.cut && len(data) <= disk.Small:
		w.say(func(*work) { w.unsynced = append(w.unsynced, d) })
	default:
		w.say(func(did *work) { did.committed = append(did.committed, d) }, "committed", d)
	}
}

// say notes what was done, and writes it to stdout in a process that is going to be killed.
func (w *workload) say(note func(*work), line ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	note(&w.did)
	if os.Getenv(envWorkDir) != "" {
		fmt.Println(line...)
	}
}

// check opens the directory as the next process does.
func (w *work) check(t *testing.T, cfg disk.Config) {
	t.Helper()
	s, err := disk.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[oci.Digest]int64{}
	for d, size := range s.Leftovers() {
		sizes[d] = size
	}
	there := map[oci.Digest]bool{}
	for _, begun := range w.begun {
		data := storetest.Bytes(begun[0], int(begun[1]))
		d := oci.FromBytes(data)
		b, err := s.Open(d)
		switch {
		case err == nil:
			storetest.WantsBytes(t, b, data)
			_ = b.Close()
			there[d] = true
			w.found++
		case !errors.Is(err, fs.ErrNotExist):
			t.Errorf("open: %v", err)
		}
		if size, ok := sizes[d]; ok {
			st, err := s.Stage(d, size)
			if err != nil {
				t.Fatal(err)
			}
			storetest.WantsStaged(t, st, data)
			w.resumed += store.Extents(st.Staged()).Total()
			_ = st.Close()
		}
	}
	for _, d := range w.committed {
		if !there[d] {
			t.Errorf("%s was committed and is gone", d)
		}
	}
	s.Survey(t.Context())
	if err := errors.Join(s.Audit(), s.Close()); err != nil {
		t.Error(err)
	}
}

// envWorkDir has a process work in a directory until it is killed.
const envWorkDir = "DISK_TEST_WORK_DIRECTORY"

// workUntilKilled is the life of that process.
func workUntilKilled(dir string) {
	seed, _ := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	w := &workload{seed: seed, cfg: disk.Config{Directory: dir, MaxSize: 1 << 30}}
	if err := w.run(func() { select {} }); err != nil {
		fmt.Println(err)
	}
}

// killed runs a workload in a process that is killed after a while, and returns what it said it had done.
func killed(t *testing.T, dir string, seed uint64, after time.Duration) (did work) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), envWorkDir+"="+dir, fmt.Sprint("SEED=", seed))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for begun := false; ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			break // a line that was cut off says nothing
		}
		if !begun {
			begun = true
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		var b [2]uint64
		var d string
		if _, err := fmt.Sscanf(line, "begun %d %d", &b[0], &b[1]); err == nil {
			did.begun = append(did.begun, b)
		} else if _, err := fmt.Sscanf(line, "committed %s", &d); err == nil {
			did.committed = append(did.committed, oci.Digest(d))
		} else {
			t.Errorf("the process says %q", line)
		}
	}
	_ = cmd.Wait()
	return did
}

// A process that is killed while it works loses nothing that it had committed.
func TestKilledAtAnyTime(t *testing.T) {
	t.Parallel()
	rounds := 4
	if long() {
		rounds = 200
	}
	r := storetest.Seeded(t)
	var total work
	for range rounds {
		dir := memoryDir(t)
		did := killed(t, dir, r.Uint64(), time.Duration(r.IntN(400))*time.Millisecond)
		did.check(t, disk.Config{Directory: dir, MaxSize: 1 << 30})
		total.add(did)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d blobs begun, %d committed, %d found, %d bytes resumed", len(total.begun), len(total.committed), total.found, total.resumed)
	if len(total.committed) == 0 {
		t.Error("nothing was at stake")
	}
}

func (w *work) add(other work) {
	w.begun = append(w.begun, other.begun...)
	w.committed = append(w.committed, other.committed...)
	w.found += other.found
	w.resumed += other.resumed
}
