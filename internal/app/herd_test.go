package app_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// finisher is what one client of a herd saw.
type finisher struct {
	outcome           string
	first, tenth, end time.Duration // since the herd was let go
	size              int           // how many bytes came that are the blob's
	err               error         // why no more did
}

// herd has n clients ask for one blob at the same time, over connections that they have opened before.
func (h *house) herd(n int, address string, blob []byte) []finisher {
	h.t.Helper()
	found := make([]finisher, n)
	var ready, done sync.WaitGroup
	var start time.Time
	let := make(chan struct{})
	for i := range found {
		client := h.client(nil)
		ready.Add(1)
		done.Go(func() {
			_, _ = do(client, request(h.t, "HEAD", address[:len(address)-1]+"g", nil)) // no digest: it only connects
			ready.Done()
			<-let
			found[i] = pull(client, address, blob, start)
		})
	}
	ready.Wait()
	start = time.Now()
	close(let)
	done.Wait()
	return found
}

// pull reads a blob, compares it with what it should be, and notes when which part of it came. It keeps nothing: a thousand
// of these are not to cost more than what they watch.
func pull(client *http.Client, address string, blob []byte, start time.Time) (f finisher) {
	resp, err := client.Get(address)
	if err != nil {
		return finisher{err: err}
	}
	defer resp.Body.Close()
	f.outcome = resp.Header.Get("X-Cache")
	buffer := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buffer)
		if !bytes.HasPrefix(blob[f.size:], buffer[:n]) {
			f.err = fmt.Errorf("other bytes than the blob's after %d", f.size)
			return f
		}
		f.size += n
		if n > 0 && f.first == 0 {
			f.first = time.Since(start)
		}
		if f.tenth == 0 && f.size >= len(blob)/10 {
			f.tenth = time.Since(start)
		}
		if err != nil {
			if err != io.EOF {
				f.err = err
			}
			f.end = time.Since(start)
			return f
		}
	}
}

// A herd costs one download, and nobody in it waits for anybody else. The registry's pace, not the machine, is the limit.
func TestHerd(t *testing.T) {
	t.Parallel()
	clients, size := 32, 10<<20
	if os.Getenv("LONG") != "" {
		clients, size = 1000, 32<<20
	}
	r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Body: registrytest.Body{Throttle: 1 << 20, IgnoreRange: true}}})
	blob := registrytest.Bytes(7, size)
	digest := r.PutBlob("team/app", blob)
	h := start(t, r.World, "REGISTRIES="+r.Host())
	before := machineTime(t)
	found := h.herd(clients, fmt.Sprintf("%s/v2/team/app/blobs/%s", r.URL(), digest), blob)
	spent := machineTime(t).since(before)

	leader := slices.IndexFunc(found, func(f finisher) bool { return f.outcome == "MISS" })
	if leader < 0 {
		t.Fatalf("nobody led: %+v", found[0])
	}
	var last time.Duration
	for i, f := range found {
		if f.err != nil || f.size != size {
			t.Fatalf("client %d got %d bytes, %v, want %d", i, f.size, f.err, size)
		}
		if f.first > found[leader].tenth {
			t.Errorf("client %d had its first byte after %v, when the leader had a tenth after %v", i, f.first, found[leader].tenth)
		}
		last = max(last, f.end)
	}
	t.Logf("%d clients: the leader was done after %v, the last after %v; this process used %.1f CPU-seconds, and the machine had %.0f %% to spare",
		clients, found[leader].end, last, spent.process.Seconds(), 100*spent.idle)
	// The machine, with what else runs on it, must not be the limit.
	if bound := found[leader].end * 12 / 10; last > bound && spent.idle > 0.1 {
		t.Errorf("the last of %d clients was done after %v, the leader after %v", clients, last, found[leader].end)
	}
	// That a registry offers parts and delivers wholes is found out with one request, which ends as soon as that is seen.
	if n, sent := r.Count("GET", "/blobs/"), r.BlobBytes(digest); n > 2 || sent > int64(size+size/4) {
		t.Errorf("the registry sent %d bytes in answer to %d GETs, want %d in answer to one", sent, n, size)
	}
}

// An origin that is slow on each connection is asked over several. The machine may be busy with other things for a while.
func TestCappedConnections(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("measures a pace, which a busy machine does not keep: LONG=1 runs it")
	}
	const size, pace = 24 << 20, 1 << 20
	r := registrytest.New(t, registrytest.Config{Faults: registrytest.Faults{Body: registrytest.Body{Throttle: pace}}})
	h := start(t, r.World, "REGISTRIES="+r.Host())
	const direct = size / pace * time.Second // it takes no less over one connection
	var took time.Duration
	for attempt := range uint64(3) {
		blob := registrytest.Bytes(attempt, size)
		digest := r.PutBlob("team/app", blob)
		began := time.Now()
		f := pull(h.http, fmt.Sprintf("%s/v2/team/app/blobs/%s", r.URL(), digest), blob, began)
		if took = time.Since(began); f.err != nil || f.size != size {
			t.Fatalf("got %d bytes, %v, want %d", f.size, f.err, size)
		}
		// What was on its way over a connection whose share another one has taken is sent in vain.
		if sent := r.BlobBytes(digest); sent > size+size/10 {
			t.Errorf("the registry sent %d bytes, want %d and little more", sent, size)
		}
		if 3*took <= direct {
			return
		}
	}
	t.Errorf("a pull took %v, want a third of the %v that it takes directly", took, direct)
}
