package dial_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/dial"
)

// network answers each address after a while, or never, and notes when it was dialled.
type network struct {
	started time.Time
	after   map[string]time.Duration // absent: never
	broken  map[string]bool

	mu     sync.Mutex
	dials  []string
	closed int
}

func (n *network) connect(ctx context.Context, _ string, addr netip.AddrPort) (net.Conn, error) {
	ip := addr.Addr().String()
	n.mu.Lock()
	n.dials = append(n.dials, ip+" at "+time.Since(n.started).String())
	n.mu.Unlock()
	after, ok := n.after[ip]
	if !ok {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	time.Sleep(after) // a fake clock's: nothing waits
	if n.broken[ip] {
		return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused by " + ip)}
	}
	return &closing{n: n, ip: ip}, nil
}

type closing struct {
	net.Conn
	n  *network
	ip string
}

func (c *closing) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.n.closed++
	return nil
}

func TestHappyEyeballs(t *testing.T) {
	for _, tt := range []struct {
		name      string
		answers   []string
		after     map[string]time.Duration
		broken    map[string]bool
		want      string // the address connected to
		wantAfter time.Duration
		wantDials []string
	}{
		{
			name: "the first answers", answers: []string{"2001:db8::1", "192.0.2.1"},
			after: map[string]time.Duration{"2001:db8::1": 100 * time.Millisecond},
			want:  "2001:db8::1", wantAfter: 100 * time.Millisecond, wantDials: []string{"2001:db8::1 at 0s"},
		}, {
			name: "IPv6 leads nowhere", answers: []string{"2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"},
			after: map[string]time.Duration{"192.0.2.1": 10 * time.Millisecond},
			want:  "192.0.2.1", wantAfter: 260 * time.Millisecond, wantDials: []string{"2001:db8::1 at 0s", "192.0.2.1 at 250ms"},
		}, {
			name: "IPv4 leads nowhere", answers: []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"},
			after: map[string]time.Duration{"2001:db8::1": 10 * time.Millisecond},
			want:  "2001:db8::1", wantAfter: 260 * time.Millisecond, wantDials: []string{"192.0.2.1 at 0s", "2001:db8::1 at 250ms"},
		}, {
			name: "a refusal starts the next at once", answers: []string{"192.0.2.1", "192.0.2.2"},
			after:  map[string]time.Duration{"192.0.2.1": 20 * time.Millisecond, "192.0.2.2": 20 * time.Millisecond},
			broken: map[string]bool{"192.0.2.1": true},
			want:   "192.0.2.2", wantAfter: 40 * time.Millisecond, wantDials: []string{"192.0.2.1 at 0s", "192.0.2.2 at 20ms"},
		}, {
			name: "a slow one still wins when the next is worse", answers: []string{"192.0.2.1", "192.0.2.2"},
			after: map[string]time.Duration{"192.0.2.1": 300 * time.Millisecond},
			want:  "192.0.2.1", wantAfter: 300 * time.Millisecond, wantDials: []string{"192.0.2.1 at 0s", "192.0.2.2 at 250ms"},
		}, {
			name: "all are broken", answers: []string{"192.0.2.1", "192.0.2.2"},
			after:     map[string]time.Duration{"192.0.2.1": 20 * time.Millisecond, "192.0.2.2": 20 * time.Millisecond},
			broken:    map[string]bool{"192.0.2.1": true, "192.0.2.2": true},
			wantAfter: 40 * time.Millisecond, wantDials: []string{"192.0.2.1 at 0s", "192.0.2.2 at 20ms"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{started: time.Now(), after: tt.after, broken: tt.broken}
				d := dial.New(dial.Config{Interfaces: machine, Resolver: &names{answers: map[string][]string{"reg.example": tt.answers}}})
				d.SetConnect(n.connect)
				conn, err := d.DialContext(t.Context(), "tcp", "reg.example:443")
				if took := time.Since(n.started); took != tt.wantAfter {
					t.Errorf("took %v, want %v", took, tt.wantAfter)
				}
				if !slices.Equal(n.dials, tt.wantDials) {
					t.Errorf("dialled %q, want %q", n.dials, tt.wantDials)
				}
				if tt.want == "" {
					if err == nil || err.Error() != "dial: connection refused by 192.0.2.1" {
						t.Errorf("err = %v, want that of the first address", err)
					}
					return
				}
				if err != nil || conn.(*closing).ip != tt.want {
					t.Errorf("connected to %v, %v, want %s", conn, err, tt.want)
				}
			})
		})
	}
}

// Both of two attempts succeed: the later connection is closed, not lost.
func TestLateConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{started: time.Now(), after: map[string]time.Duration{"192.0.2.1": 300 * time.Millisecond, "192.0.2.2": 200 * time.Millisecond}}
		d := dial.New(dial.Config{Interfaces: machine, Resolver: &names{answers: map[string][]string{"reg.example": {"192.0.2.1", "192.0.2.2"}}}})
		d.SetConnect(n.connect)
		if _, err := d.DialContext(t.Context(), "tcp", "reg.example:443"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n.closed != 1 {
			t.Errorf("%d connections closed, want the late one", n.closed)
		}
	})
}

func TestCancelledDialEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{started: time.Now()}
		d := dial.New(dial.Config{Interfaces: machine, Resolver: &names{answers: map[string][]string{"reg.example": {"192.0.2.1", "192.0.2.2"}}}})
		d.SetConnect(n.connect)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := d.DialContext(ctx, "tcp", "reg.example:443"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("err = %v, want the context's", err)
		}
	})
}
