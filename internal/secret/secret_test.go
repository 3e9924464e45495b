package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestNothingShowsASecret(t *testing.T) {
	t.Parallel()
	const canary = "canary-7f3a"
	s := New(canary)
	wrapped := struct {
		Name string
		Pass String
	}{"user", s}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "w", wrapped, "p", &s)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "w", wrapped, "p", &s)
	asJSON, err := json.Marshal(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{
		s.String(), log.String(), string(asJSON),
		fmt.Sprintf("%v %+v %#v %s %q %x %X %d %T", s, s, s, s, s, s, s, s, s),
		fmt.Sprintf("%v %+v %#v %s", wrapped, wrapped, wrapped, &wrapped), fmt.Sprint(&s), fmt.Errorf("bad %v", s).Error(),
	} {
		if strings.Contains(shown, canary) || strings.Contains(shown, fmt.Sprintf("%x", canary)) {
			t.Errorf("a secret is shown in %q", shown)
		}
	}
	if s.Reveal() != canary || New("").String() != "" || !New("").Empty() {
		t.Error("a secret must be revealed on demand, and nothing is not redacted")
	}
	if s.Key() == New("other").Key() || s.Key() != New(canary).Key() {
		t.Error("keys must tell secrets apart and be stable")
	}
}
