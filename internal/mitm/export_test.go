package mitm

import (
	"crypto/tls"
	"time"
)

// ParseKey is parseKey.
var ParseKey = parseKey

// ParseChain is parseChain.
var ParseChain = parseChain

// MaxHosts is maxHosts.
const MaxHosts = maxHosts

// Kept is the number of hosts that are kept.
func (a *Authority) Kept() int { return a.hosts.used.Len() }

// Mint mints a leaf of host, past what is kept.
func (a *Authority) Mint(host string) (*tls.Certificate, error) {
	s, err := parseSubject(host)
	if err != nil {
		return nil, err
	}
	l, err := a.mint.leaf(s, wallClock())
	if err != nil {
		return nil, err
	}
	return l.cert, nil
}

// KeepMintedAt keeps a leaf of host as if it had been minted at that time.
func (a *Authority) KeepMintedAt(host string, at time.Time) error {
	s, err := parseSubject(host)
	if err != nil {
		return err
	}
	h := a.hosts.host(s)
	h.minting.Lock()
	defer h.minting.Unlock()
	h.leaf, err = h.mint.leaf(s, at)
	return err
}
