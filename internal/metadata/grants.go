package metadata

import (
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"container-registry-proxy/internal/oci"
)

// Acceptance says when a registry last took a client's own login for a repository. Both times are the wall clock's, so
// that a restart extends nothing.
type Acceptance struct {
	At time.Time `json:"at"`
	// End is when the login ends by itself; zero where it does not.
	End time.Time `json:"end,omitzero"`
}

// grantKey is what an acceptance is kept under: of the login only a keyed fingerprint. One without a repository says
// that the registry has taken the login for something.
type grantKey struct {
	place
	login [32]byte
}

// String is the key in the database.
func (k grantKey) String() string {
	return join(string(k.registry), k.repository, hex.EncodeToString(k.login[:]))
}

// parseGrantKey is the reverse of String.
func parseGrantKey(s string) (k grantKey) {
	f := append(strings.SplitN(s, "\x00", 3), "", "")
	k.place = place{oci.Registry(f[0]), f[1]}
	_, _ = hex.Decode(k.login[:], []byte(f[2][:min(len(f[2]), hex.EncodedLen(len(k.login)))])) // another key finds nothing
	return k
}

// Accepted returns when the registry last took a login for the repository, if it has.
func (m *Metadata) Accepted(reg oci.Registry, repository string, login [32]byte) (Acceptance, bool) {
	return m.grants.get(grantKey{place{reg, repository}, login})
}

// PutAccepted records that it has.
func (m *Metadata) PutAccepted(reg oci.Registry, repository string, login [32]byte, a Acceptance) {
	for _, repository := range slices.Compact([]string{"", repository}) {
		set(m.grants, grantKey{place{reg, repository}, login}, a)
	}
}

// ForgetAccepted drops what is known of a login for the repository.
func (m *Metadata) ForgetAccepted(reg oci.Registry, repository string, login [32]byte) {
	m.grants.remove(grantKey{place{reg, repository}, login})
}

// ForgetAcceptedBefore drops what is of no use to anybody any more.
func (m *Metadata) ForgetAcceptedBefore(at, now time.Time) {
	for _, k := range m.grants.keys("") {
		if a, ok := m.grants.get(k); !ok || a.At.Before(at) || !a.End.IsZero() && a.End.Before(now) || a.At.After(now) {
			m.grants.remove(k)
		}
	}
}

// Reached returns what a registry last said to the operator's credentials about a repository, if it was asked.
func (m *Metadata) Reached(reg oci.Registry, repository string) (OpenAnswer, bool) {
	return m.reached.get(place{reg, repository})
}

// PutReached records it.
func (m *Metadata) PutReached(reg oci.Registry, repository string, a OpenAnswer) {
	set(m.reached, place{reg, repository}, a)
}

// Challenge is how a registry challenged last who asked it without a login: its WWW-Authenticate headers.
func (m *Metadata) Challenge(reg oci.Registry) []string {
	challenge, _ := m.challenges.get(place{registry: reg})
	return challenge
}

// PutChallenge records it.
func (m *Metadata) PutChallenge(reg oci.Registry, challenge []string) {
	m.challenges.update(place{registry: reg}, func(old []string, _ bool) ([]string, bool) {
		return challenge, !slices.Equal(old, challenge)
	})
}
