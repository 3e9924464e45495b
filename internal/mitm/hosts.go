package mitm

import (
	"container/list"
	"crypto/tls"
	"slices"
	"sync"
	"time"
)

// maxHosts bounds the hosts that are kept, each of which takes 2 KiB. Few have as many registries; but a wildcard
// in the configuration makes a host of any name that a client thinks of.
const maxHosts = 1024

// hosts keeps what connections to hosts are terminated with, the least recently used going first.
type hosts struct {
	mint    *mint
	tickets *tickets
	offered []string // protocols, the preferred one first

	mu     sync.Mutex // guards the fields that follow; nothing is minted under it
	byName map[string]*list.Element
	used   *list.List // of *host, the most recently used first
}

func newHosts(m *mint, t *tickets, http2 bool) *hosts {
	offered := []string{"http/1.1"}
	if http2 {
		offered = []string{"h2", "http/1.1"}
	}
	return &hosts{mint: m, tickets: t, offered: offered, byName: map[string]*list.Element{}, used: list.New()}
}

func (h *hosts) config(name string) *tls.Config {
	s, err := parseSubject(name)
	if err != nil {
		// Not kept: what is no host must not push one out.
		return &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, err },
		}
	}
	host := h.host(s)
	host.rotate(today())
	return host.config
}

func (h *hosts) host(s subject) *host {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e := h.byName[s.name]; e != nil {
		h.used.MoveToFront(e)
		return e.Value.(*host)
	}
	if h.used.Len() >= maxHosts {
		delete(h.byName, h.used.Remove(h.used.Back()).(*host).subject.name)
	}
	added := newHost(s, h)
	h.byName[s.name] = h.used.PushFront(added)
	return added
}

// host is what connections to one host share.
type host struct {
	subject subject
	mint    *mint
	tickets *tickets
	config  *tls.Config

	minting sync.Mutex // guards leaf, and is held while one is minted: who asks meanwhile waits for the same one
	leaf    *leaf

	rotating sync.Mutex // guards day
	day      int64      // whose ticket key is the current one
}

func newHost(s subject, h *hosts) *host {
	added := &host{subject: s, mint: h.mint, tickets: h.tickets}
	added.config = &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         slices.Clone(h.offered),
		GetCertificate:     added.certificate,
		GetConfigForClient: added.withoutTickets,
	}
	return added
}

// certificate answers with the host's leaf whatever the client asks for: that the names differ is for the handler to
// say, in HTTP, where people can read it.
func (h *host) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	now := wallClock()
	h.minting.Lock()
	defer h.minting.Unlock()
	if !h.leaf.usable(now) {
		minted, err := h.mint.leaf(h.subject, now)
		if err != nil {
			return nil, err
		}
		h.leaf = minted
	}
	return h.leaf.cert, nil
}

// withoutTickets gives no tickets to clients without TLS 1.3, old ones. A ticket of TLS 1.2 holds what decrypts the
// session: whoever got the authority's key later could read what was recorded.
func (h *host) withoutTickets(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if slices.Contains(hello.SupportedVersions, tls.VersionTLS13) {
		return nil, nil
	}
	config := h.config.Clone()
	config.SessionTicketsDisabled = true
	return config, nil
}

// rotate sees to it that the ticket keys are those of the day.
func (h *host) rotate(day int64) {
	h.rotating.Lock()
	defer h.rotating.Unlock()
	if h.day != day {
		h.config.SetSessionTicketKeys(h.tickets.keys(h.subject.name, day))
		h.day = day
	}
}

// wallClock is the time without the monotonic clock, which stands still while the machine sleeps and does not notice
// that the clock was set.
func wallClock() time.Time { return time.Now().Round(0) }
