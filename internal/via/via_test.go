package via

import (
	"net/http"
	"slices"
	"testing"
)

func TestIn(t *testing.T) {
	t.Parallel()
	const me = Name("me")
	for line, want := range map[string]bool{
		"1.1 me": true, "HTTP/1.1 me": true, "1.0 fred, 1.1 me": true, "1.1 me (a comment), 1.1 other": true, "1.0 fred,1.1 me": true, "\t1.1\tme ": true,
		"": false, "me": false, "1.1 mee": false, "1.1 notme": false, "1.1 me:3128": false, "1.1 other (me)": false, "1.1 Me": false,
	} {
		if got := me.In(http.Header{"Via": {"1.1 first", line}}); got != want {
			t.Errorf("Via: %s: %t, want %t", line, got, want)
		}
	}
	if Name("").In(http.Header{"Via": {"1.1 ", "1.1"}}) {
		t.Error("nobody is found")
	}
}

func TestMark(t *testing.T) {
	t.Parallel()
	first, second := New(), New()
	if first == second || first == "" {
		t.Errorf("two proxies are called %q and %q", first, second)
	}
	header := http.Header{"Via": {"1.1 stranger"}}
	first.Mark(t.Context(), header)
	ctx := NewContext(t.Context(), header["Via"])
	next := http.Header{}
	second.Mark(ctx, next)
	if want := []string{"1.1 " + string(first), "1.1 " + string(second)}; !slices.Equal(next["Via"], want) {
		t.Errorf("Via is %q, want %q", next["Via"], want)
	}
	if !slices.Equal(Of(ctx), header["Via"]) || len(Of(t.Context())) != 0 {
		t.Error("marking one request has changed another")
	}
	if Name("").Mark(ctx, next); len(next["Via"]) != 2 {
		t.Error("nobody has marked a request")
	}
}
