// Package client says who may use the proxy, and what each may pull through it. Its invariant: what a client is denied
// says nothing of what is cached, and a password costs a bounded amount of work to check, however many are tried.
package client

import (
	"encoding/base64"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"container-registry-proxy/internal/glob"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

// Realm is what a client's login to the proxy is asked for under.
const Realm = "container-registry-proxy"

// Who is a client, as far as it is known.
type Who struct {
	Addr  netip.Addr
	User  string   // of a login that was checked
	Names []string // of a certificate that was checked
}

// Rule says what some clients may pull. Of who they are, each field that is not empty has to fit; without any it is for all.
// Patterns are those of package glob. A nil list of what they may pull means all.
type Rule struct {
	Networks     []netip.Prefix
	Users        []string
	Certificates []string // patterns

	Registries   []string // patterns
	Repositories []string // patterns
}

// Config says who may use the proxy. The zero value lets everybody use all of it.
type Config struct {
	// Networks are those that clients must come from; empty means any.
	Networks []netip.Prefix
	// Users are those that may use the proxy with their password; nil means that nobody needs one.
	Users *Users
	// Certificates says that a client with a verified certificate may use the proxy, and, where there are no Users, that no
	// other may.
	Certificates bool
	// Rules say what each may pull: the first that fits a client counts. A client that none fits may pull nothing; without
	// any rule all may pull everything.
	Rules []Rule
}

// Guard is a Config at work. It is safe for concurrent use.
type Guard struct{ cfg Config }

// New returns a guard.
func New(cfg Config) *Guard { return &Guard{cfg} }

// Denial is why a client may not use the proxy: a status and a text for it.
type Denial struct {
	Status int
	Text   string
}

// Admit finds out who sends a request, and refuses those who may not use the proxy.
func (g *Guard) Admit(r *http.Request) (Who, *Denial) {
	who := Who{Addr: addressOf(r)}
	if len(g.cfg.Networks) > 0 && !within(g.cfg.Networks, who.Addr) {
		return who, &Denial{http.StatusForbidden, "this address may not use the proxy: its operator can name its network in CLIENT_NETWORKS"}
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		leaf := r.TLS.VerifiedChains[0][0]
		who.Names = append([]string{leaf.Subject.CommonName}, leaf.DNSNames...)
	}
	user, password, given := login(r.Header.Get("Proxy-Authorization"))
	if given && g.cfg.Users != nil && g.cfg.Users.Check(r.Context(), user, password) {
		who.User = user
	}
	known := who.User != "" || g.cfg.Certificates && len(who.Names) > 0
	switch {
	case known || g.cfg.Users == nil && !g.cfg.Certificates:
		return who, nil
	case g.cfg.Users == nil:
		return who, &Denial{http.StatusForbidden, "the proxy is for clients with a certificate that its operator's authority has signed (CLIENT_CA_FILE): connect with TLS and present one"}
	case given:
		return who, &Denial{http.StatusProxyAuthRequired, "the proxy does not know this user and password (CLIENT_USERS_FILE)"}
	}
	return who, &Denial{http.StatusProxyAuthRequired, "the proxy wants a user and a password in Proxy-Authorization (CLIENT_USERS_FILE): for example HTTPS_PROXY=http://user:password@proxy:3128"}
}

// Unruled reports whether every client that is admitted may pull everything.
func (g *Guard) Unruled() bool { return len(g.cfg.Rules) == 0 }

// May reports whether a client may pull from a repository, or ask the registry for what is in none if that is empty.
func (g *Guard) May(who Who, reg oci.Registry, repository string) bool {
	if g.Unruled() {
		return true
	}
	for _, rule := range g.cfg.Rules {
		if rule.fits(who) {
			return rule.allows(reg, repository)
		}
	}
	return false
}

// Everyone reports whether all clients that may pull anything may pull from the repository.
func (g *Guard) Everyone(reg oci.Registry, repository string) bool {
	return !slices.ContainsFunc(g.cfg.Rules, func(rule Rule) bool { return !rule.allows(reg, repository) })
}

func (rule Rule) fits(who Who) bool {
	return (len(rule.Networks) == 0 || within(rule.Networks, who.Addr)) &&
		(len(rule.Users) == 0 || who.User != "" && slices.Contains(rule.Users, who.User)) &&
		(len(rule.Certificates) == 0 || slices.ContainsFunc(who.Names, func(name string) bool { return glob.Any(rule.Certificates, name) }))
}

func (rule Rule) allows(reg oci.Registry, repository string) bool {
	if rule.Registries != nil && !glob.Any(rule.Registries, strings.TrimPrefix(string(reg), "http://")) {
		return false
	}
	return rule.Repositories == nil || repository == "" || glob.Any(rule.Repositories, repository)
}

func within(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func addressOf(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// login takes a Proxy-Authorization header apart (RFC 7617).
func login(header string) (user string, password secret.String, given bool) {
	scheme, encoded, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", password, false
	}
	pair, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	user, text, found := strings.Cut(string(pair), ":")
	return user, secret.New(text), err == nil && found && user != ""
}
