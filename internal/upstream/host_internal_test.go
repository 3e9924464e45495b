package upstream

import (
	"fmt"
	"net/url"
	"testing"
)

// Redirects lead to as many hosts as they like, and a name has many spellings.
func TestHostsAreForgotten(t *testing.T) {
	t.Parallel()
	h := newHosts(nil)
	in := func(text string) *url.URL {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	busy, _, err := h.enter(t.Context(), in("https://busy.test"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxHosts {
		s, _, err := h.enter(t.Context(), in(fmt.Sprintf("https://%d.test", i)))
		if err != nil {
			t.Fatal(err)
		}
		s.leave()
		s.leave() // once more is harmless
	}
	if n := len(h.all); n > maxHosts {
		t.Errorf("%d hosts are remembered", n)
	}
	for _, spelling := range []string{"https://BUSY.test", "https://busy.test:443", "https://busy.test./v2/"} {
		if at := h.use(in(spelling)); at != busy.host {
			t.Errorf("%s is another host than https://busy.test", spelling)
		}
	}
}
