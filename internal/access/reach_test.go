package access

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/upstream"
	"container-registry-proxy/internal/upstream/auth"
)

// failing are registries that answer every question with one error.
type failing struct{ err error }

func (f failing) Do(context.Context, upstream.Request) (*http.Response, error) { return nil, f.err }

// What the proxy's own questions show of a registry and its token service.
func TestUnreachableIsWhatGaveNoAnswer(t *testing.T) {
	t.Parallel()
	at := func(host string, err error) error {
		return &upstream.UnreachableError{Registry: reg, Host: host, Err: err}
	}
	service := func(status int) error {
		return &auth.ServiceError{Host: "auth.test", Status: status, Err: errors.New("no answer")}
	}
	own := reg.Authority()
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"the registry gives no answer", at(own, errors.New("refused")), true},
		{"where it redirects to gives none", at("cdn.test", errors.New("refused")), false},
		{"its token service gives none", at(own, service(0)), true},
		{"its token service is in trouble", at(own, service(503)), true},
		{"the caller has left", context.Canceled, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			if _, err := w.Watch(failing{tt.err}).Do(t.Context(), upstream.Request{Registry: reg}); !errors.Is(err, tt.err) {
				t.Fatal(err)
			}
			if got := w.Unreachable(reg); got != tt.want {
				t.Errorf("unreachable = %v, want %v", got, tt.want)
			}
		})
	}
}

// What requests show that are relayed for clients to a token service: it concerns the registries that it is paired with,
// for half a minute or until it answers.
func TestATokenServiceThatIsUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.cfg.Realms = func(of oci.Registry) []oci.Registry {
		if of == reg {
			return []oci.Registry{"auth.test"}
		}
		return nil
	}
	a := New(w.cfg)
	want := func(when string, want bool) {
		t.Helper()
		if got := a.Unreachable(reg); got != want {
			t.Errorf("%s: unreachable = %v, want %v", when, got, want)
		}
		if a.Unreachable("other.test") {
			t.Errorf("%s: another registry counts as unreachable", when)
		}
	}
	a.Saw("auth.test", false)
	want("no answer", true)
	a.Saw("auth.test", true)
	want("an answer after that", false)
	a.Saw("auth.test", false)
	w.now = w.now.Add(29 * time.Second)
	want("no answer lately", true)
	w.now = w.now.Add(2 * time.Second)
	want("no answer half a minute ago", false)
}
