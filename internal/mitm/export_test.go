package mitm

import "crypto/tls"

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
