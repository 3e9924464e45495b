package config

import (
	"strings"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"0": 0, "1024": 1024, "1k": 1 << 10, "1K": 1 << 10, "500m": 500 << 20, "500M": 500 << 20, "32g": 32 << 30, "32G": 32 << 30,
		"007k": 7 << 10, "9223372036854775807": 1<<63 - 1, "8589934591g": 8589934591 << 30,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "g", "k", "1.5g", "32 g", "32gb", "32GiB", "1t", "-1", "-1g", "+1", "0x10", "1e9", "1_000", "٣g", "g1", "1gg",
		"9223372036854775808", "8589934592g", "9007199254740993m", "99999999999999999999", "99999999999999999999k",
	} {
		if got, err := ParseSize(text); err == nil || !strings.Contains(err.Error(), "32g") {
			t.Errorf("ParseSize(%q) = %d, %v, want an error that shows 32g", text, got, err)
		}
	}
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"0": 0, "60": time.Minute, "60s": time.Minute, "10m": 10 * time.Minute, "1h": time.Hour, "60d": 60 * day, "2w": 14 * day,
		"1M": 30 * day, "1y": 365 * day, "250ms": 250 * time.Millisecond, "0ms": 0, "1d 12h": 36 * time.Hour, "1d12h": 36 * time.Hour,
		"1h 30": time.Hour + 30*time.Second, "1h30": time.Hour + 30*time.Second, "1m 500ms": time.Minute + 500*time.Millisecond,
		"1s500ms": 1500 * time.Millisecond, "1y 1M 1w 1d 1h 1m 1s 1ms": 403*day + time.Hour + time.Minute + time.Second + time.Millisecond,
		"1d   2h": 26 * time.Hour, "90s ": 90 * time.Second,
	} {
		if got, err := ParseTime(text); err != nil || got != want {
			t.Errorf("ParseTime(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " ", "s", "d1", "1.5s", "-1s", "+1s", "1 d", "12h 1d", "1s 1s", "1m1h", "60 60", "1dd", "1hm", "1D", "1H", "10min", "5µs", "10sec",
		"1ms 1s", "1ms1", "60s 10", "293y", "99999999999999999999s", "1e3", "off", "1d,2h", "1d\t2h", "1x", "1mms",
	} {
		if got, err := ParseTime(text); err == nil || !strings.Contains(err.Error(), "60d") {
			t.Errorf("ParseTime(%q) = %v, %v, want an error that shows 60d", text, got, err)
		}
	}
}

func TestShownValuesStayOnOneLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                        `""`,
		"plain":                   "plain",
		"a b":                     `"a b"`,
		"a\nb":                    `"a\nb"`,
		"\x1b[31m":                `"\x1b[31m"`,
		strings.Repeat("ä", 1000): `"` + strings.Repeat("ä", 40) + `"…`,
	} {
		if got := show(text); got != want {
			t.Errorf("show(%.20q…) = %s, want %s", text, got, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, text := range []string{"32g", "1.5g", "0", "9999999999g", "k", "1t", "9007199254740993k"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseSize(text)
		if n < 0 || err != nil && (n != 0 || strings.ContainsAny(err.Error(), "\n\r")) {
			t.Fatalf("ParseSize(%q) = %d, %v", text, n, err)
		}
		// A size with a unit is at least as many bytes as its digits say.
		if digits, plainErr := ParseSize(strings.TrimRight(text, "kKmMgG")); err == nil && (plainErr != nil || digits > n) {
			t.Fatalf("ParseSize(%q) = %d, less than without its unit: %d, %v", text, n, digits, plainErr)
		}
	})
}

func FuzzParseTime(f *testing.F) {
	for _, text := range []string{"60d", "1d 12h", "60", "1y1M1w", "500ms", "1m 1h", "292y", "99999999999999999999", "1h30"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseTime(text)
		if d < 0 || err != nil && (d != 0 || strings.ContainsAny(err.Error(), "\n\r")) {
			t.Fatalf("ParseTime(%q) = %v, %v", text, d, err)
		}
		if again, err2 := ParseTime(text + " "); err == nil && (err2 != nil || again != d) {
			t.Fatalf("ParseTime(%q) = %v, but %v, %v with a space behind", text, d, again, err2)
		}
	})
}
