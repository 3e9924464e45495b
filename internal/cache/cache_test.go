package cache

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/store/disk"
)

func bare(t *testing.T) *Cache {
	t.Helper()
	s, err := disk.Open(disk.Config{Directory: t.TempDir(), MaxSize: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	c := New(Config{Store: s})
	t.Cleanup(func() {
		c.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Nobody's request runs a shared question: its panic would end the process.
func TestAPanicInASharedQuestionIsAnError(t *testing.T) {
	t.Parallel()
	c := bare(t)
	for range 2 {
		_, _, err := share(t.Context(), c, "key", func(context.Context) (int, error) { panic("as the test wants it") })
		if err == nil || !strings.Contains(err.Error(), "as the test wants it") {
			t.Errorf("error %v, want the panic", err)
		}
	}
	if v, own, err := share(t.Context(), c, "key", func(context.Context) (int, error) { return 7, nil }); v != 7 || !own || err != nil {
		t.Errorf("the next question: %d, %t, %v", v, own, err)
	}
}

func TestASharedQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &Cache{cfg: Config{}}
		asked := 0
		slow := func(ctx context.Context) (int, error) {
			asked++
			select {
			case <-time.After(time.Minute):
				return asked, nil
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
		}
		leaves, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, own, err := share(leaves, c, "key", slow); own || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the one that leaves: own %t, %v", own, err)
			}
		})
		synctest.Wait()
		for range 10 {
			wg.Go(func() {
				if v, own, err := share(t.Context(), c, "key", slow); v != 1 || own || err != nil {
					t.Errorf("one that stays: %d, own %t, %v", v, own, err)
				}
			})
		}
		wg.Wait()
		// It has an end, whatever a registry does.
		hangs := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, context.Cause(ctx) }
		if _, _, err := share(t.Context(), c, "key", hangs); !errors.Is(err, context.DeadlineExceeded) || !passing(err) {
			t.Errorf("a question without an answer: %v", err)
		}
	})
}

// An object that is served from memory is in use: the store must not take it for one that nobody wants.
func TestTheStoreSeesTheUseOfWhatIsInMemory(t *testing.T) {
	t.Parallel()
	c := bare(t)
	now := time.Now()
	c.memory.now = func() time.Time { return now }
	b := []byte("small and hot")
	d := oci.FromBytes(b)
	if err := c.store(d, b); err != nil {
		t.Fatal(err)
	}
	read := func() {
		t.Helper()
		body, size, ok := c.open(d)
		if !ok || size != int64(len(b)) {
			t.Fatalf("not there: %d bytes", size)
		}
		if got, err := io.ReadAll(body.Range(0, -1)); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	read()
	if err := c.cfg.Store.Remove(d); err != nil { // evicted
		t.Fatal(err)
	}
	read()
	if _, err := c.cfg.Store.Open(d); err == nil {
		t.Fatal("the store was asked for every read")
	}
	now = now.Add(storeSeesUse)
	read()
	c.commits.Wait()
	if blob, err := c.cfg.Store.Open(d); err != nil {
		t.Errorf("what is in use was not stored again: %v", err)
	} else if err := blob.Close(); err != nil {
		t.Error(err)
	}
}

func TestParseContentRange(t *testing.T) {
	t.Parallel()
	type parsed struct {
		First, Size int64
		OK          bool
	}
	for s, want := range map[string]parsed{
		"bytes 0-9/10": {0, 10, true}, "bytes 5-9/10": {5, 10, true}, "bytes 5-9/*": {5, -1, true},
		"bytes 0-10/10": {}, "bytes 9-5/10": {}, "bytes -1-5/10": {}, "bytes */10": {}, "bytes 0-9": {}, "bytes=0-9/10": {}, "": {},
		"items 0-9/10": {}, "bytes a-b/c": {}, "bytes 0-99999999999999999999/*": {}, "bytes 0-9/-1": {},
	} {
		first, size, ok := parseContentRange(s)
		if !ok {
			first, size = 0, 0
		}
		if diff := cmp.Diff(want, parsed{first, size, ok}); diff != "" {
			t.Errorf("parseContentRange(%q): (-want +got)\n%s", s, diff)
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 0-9/*")
	f.Fuzz(func(t *testing.T, s string) {
		first, size, ok := parseContentRange(s)
		if ok && (first < 0 || size != -1 && first >= size) {
			t.Fatalf("parseContentRange(%q) = %d, %d", s, first, size)
		}
	})
}

func TestDecode(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := io.WriteString(z, "plain"); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	for encoding, tc := range map[string]struct {
		body string
		want string // empty: an error
	}{
		"": {"plain", "plain"}, "identity": {"plain", "plain"}, "gzip": {packed.String(), "plain"}, "X-GZIP": {packed.String(), "plain"},
		"br": {"plain", ""}, "gzip, gzip": {packed.String(), ""}, " gzip": {"plain", ""},
	} {
		resp := &http.Response{Header: http.Header{"Content-Encoding": {encoding}}, Body: io.NopCloser(strings.NewReader(tc.body)), ContentLength: int64(len(tc.body))}
		err := decode(resp)
		if tc.want == "" {
			if err == nil {
				t.Errorf("%q: no error", encoding)
			}
			continue
		}
		got, rerr := io.ReadAll(resp.Body)
		if err != nil || rerr != nil || string(got) != tc.want {
			t.Errorf("%q: %q, %v, %v", encoding, got, err, rerr)
		}
	}
}
