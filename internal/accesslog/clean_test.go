package accesslog

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"plain", "library/alpine:3.20", "library/alpine:3.20"},
		{"letters of other scripts", "größe 日本", "größe 日本"},
		{"a forged second line", "a\r\n{\"msg\":\"request\"}", "a\uFFFD\uFFFD{\"msg\":\"request\"}"},
		{"a terminal's escape", "\x1b[31mred\x9b0m", "\uFFFD[31mred\uFFFD0m"},
		{"line and paragraph separators", "a\u2028b\u2029c", "a\uFFFDb\uFFFDc"},
		{"turned writing", "abc\u202Egpj", "abc\uFFFDgpj"},
		{"bytes that are not UTF-8", "a\xffb", "a\uFFFDb"},
		{"a signed URL", `Get "https://cdn.example.com/b/1?X-Amz-Signature=abc&X-Amz-Date=1": EOF`, `Get "https://cdn.example.com/b/1?…": EOF`},
		{"two signed URLs", "http://a/?k=1 then http://b/?k=2", "http://a/?… then http://b/?…"},
		{"a question", "why? because", "why? because"},
		{"userinfo", "https://user:pa@ss@example.com/v2/ failed", "https://…@example.com/v2/ failed"},
		{"an address for mail", "robot@example.com", "robot@example.com"},
	} {
		if got := clean(tt.in); got != tt.want {
			t.Errorf("%s: clean(%q) = %q, want %q", tt.name, tt.in, got, tt.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("https://a/?k=v\x00")
	f.Add(strings.Repeat("é", 600))
	f.Add(strings.Repeat("x", 5000) + "?a=b")
	f.Add(strings.Repeat("\xff", 1500))
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if len(got) > maxText+len("…") || !utf8.ValidString(got) {
			t.Fatalf("clean(%q) = %q: %d bytes, valid %v", s, got, len(got), utf8.ValidString(got))
		}
		for _, r := range got {
			if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u202E' {
				t.Fatalf("clean(%q) = %q has %U", s, got, r)
			}
		}
	})
}

// Nothing that a stranger sends may forge a line, and what is secret is in none.
func TestHostileRequest(t *testing.T) {
	t.Parallel()
	hostile := "x\r\n{\"level\":\"INFO\",\"msg\":\"request\"}\x1b[2J\u2028\xff" + strings.Repeat("A", 1<<20)
	log, out, _ := newLog()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr, r.Method = hostile, hostile
	r.Header.Set("Authorization", "Basic Y2FuYXJ5OmNhbmFyeQ==")
	r.Header.Set("X-Request-Id", hostile)
	log.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		rec := From(r.Context())
		rec.Registry, rec.Repository, rec.Reference, rec.Kind, rec.Outcome, rec.Err = hostile, hostile, hostile, hostile, hostile, hostile
		panic("https://cdn.example.com/?sig=canary " + hostile)
	})).ServeHTTP(httptest.NewRecorder(), r)
	if n := len(out.requests(t)); n != 1 {
		t.Errorf("%d access lines, want 1", n)
	}
	if n := len(out.String()); n > 32<<10 {
		t.Errorf("log has %d bytes, want each string bounded", n)
	}
	for _, secret := range []string{"Y2FuYXJ5", "canary"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("log has %q: %s", secret, out)
		}
	}
}

// A person reads the text form on a terminal: it has to be as safe.
func TestTextLogHasOneLineARequest(t *testing.T) {
	t.Parallel()
	out := &lines{}
	log := New(Config{Log: slog.New(slog.NewTextHandler(out, nil))})
	log.Emit(t.Context(), &Record{Err: "a\nb=c\x1b[0m", Repository: "x\u2028y"})
	if got := out.String(); strings.Count(got, "\n") != 1 || strings.ContainsAny(got, "\x1b\u2028") {
		t.Errorf("text line = %q", got)
	}
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	id := func(header string) string {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["X-Request-Id"] = []string{header}
		return NewRecord(r).RequestID
	}
	for _, harmless := range []string{"a", "9f1c2d3e-0000-4000-8000-000000000000", strings.Repeat("a", 64)} {
		if got := id(harmless); got != harmless {
			t.Errorf("client's id %q became %q, want it kept", harmless, got)
		}
	}
	seen := map[string]bool{}
	for _, other := range []string{"", "a b", "a\nb", `a"b`, "日本", "<a>", strings.Repeat("a", 65)} {
		got := id(other)
		if got == other || len(got) < 8 || len(got) > 16 || seen[got] {
			t.Errorf("client's id %q became %q, want a short random one", other, got)
		}
		seen[got] = true
	}
}

// The line has to be JSON whatever is in it; a log that cannot be parsed hides what went wrong.
func FuzzLine(f *testing.F) {
	f.Add("GET", "library/alpine", "err \x00 \xff \u2028 ?a=b")
	f.Fuzz(func(t *testing.T, method, repository, problem string) {
		out := &lines{}
		New(Config{Log: slog.New(slog.NewJSONHandler(out, nil))}).
			Emit(t.Context(), &Record{Method: method, Repository: repository, Err: problem})
		if !json.Valid([]byte(out.String())) || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("line %q is not one JSON object", out)
		}
	})
}
