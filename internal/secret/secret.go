// Package secret holds credentials in a type that cannot be printed. Its invariant: no formatting verb, logger or
// encoder of the standard library or of YAML shows what a [String] holds; only [String.Reveal] does, and every call of
// it is a place where a credential leaves our hands.
package secret

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
)

// redacted stands in for a secret wherever one would be shown.
const redacted = "REDACTED"

// String is a password, a token or an Authorization header. The zero value is the absent secret.
type String struct{ value string }

// New wraps s.
func New(s string) String { return String{s} }

// Reveal returns the secret itself, to be sent to the one party it is meant for.
func (s String) Reveal() string { return s.value }

// Empty reports whether there is no secret.
func (s String) Empty() bool { return s.value == "" }

// String says REDACTED, or nothing where there is nothing to hide.
func (s String) String() string {
	if s.value == "" {
		return ""
	}
	return redacted
}

// Format covers every verb, %#v and %x among them.
func (s String) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue keeps the secret out of structured logs.
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps the secret out of JSON and YAML.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML keeps the secret out of YAML encoders that do not know MarshalText.
func (s String) MarshalYAML() (any, error) { return s.String(), nil }

// Key is a fingerprint of a secret for use as a map key. It is keyed with random bytes of this process, so it can be
// neither reversed by guessing nor compared with another process's.
type Key [sha256.Size]byte

var processKey = func() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails: crypto/rand crashes the program instead
	return key
}()

// Key returns the fingerprint of s.
func (s String) Key() Key {
	mac := hmac.New(sha256.New, processKey)
	_, _ = io.WriteString(mac, s.value)
	return Key(mac.Sum(nil))
}
