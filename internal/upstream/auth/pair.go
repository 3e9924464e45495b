package auth

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/net/publicsuffix"

	"container-registry-proxy/internal/oci"
)

// builtInPairs are the token services of registries whose realm lies under another name. Everybody's registry may be
// asked to trust them; nobody else's may.
var builtInPairs = map[oci.Registry]string{
	oci.DockerHub:         "auth.docker.io",
	"registry.gitlab.com": "gitlab.com",
	"nvcr.io":             "authn.nvidia.com",
}

// realm is the address of a token service, as a challenge names it.
type realm struct {
	url       *url.URL
	registry  oci.Registry // its host, as logins are kept for it
	host      string       // without port
	authority string       // host[:port] without a default port
}

// maxRealm bounds a realm: it becomes a request line.
const maxRealm = 4 << 10

// parseRealm takes an absolute http or https URL, and nothing that could be read in two ways.
func parseRealm(s string) (realm, error) {
	if s == "" || len(s) > maxRealm {
		return realm{}, errors.New("no realm")
	}
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" || u.User != nil || u.Fragment != "" || strings.ContainsAny(s, "\\\t ") {
		return realm{}, errors.New("malformed realm")
	}
	var reg oci.Registry
	switch u.Scheme {
	case "https":
		reg, err = oci.ParseRegistry(u.Host)
	case "http":
		reg, err = oci.ParsePlainRegistry(u.Host)
	default:
		err = errors.New("neither http nor https")
	}
	if err != nil {
		return realm{}, errors.New("malformed realm")
	}
	u.Host = strings.TrimPrefix(reg.Authority(), "http://")
	return realm{url: u, registry: reg, host: hostOf(u.Host), authority: u.Host}, nil
}

// hostOf strips the port, and the brackets of an IPv6 address.
func hostOf(authority string) string {
	return oci.CanonicalHost((&url.URL{Host: authority}).Hostname())
}

// paired reports whether the registry may name host as its token service: the same host, a built-in or configured pair,
// or two named hosts under one registrable domain.
func (a *Authorizer) paired(reg oci.Registry, host string) bool {
	own := hostOf(reg.Authority())
	if host == own || host == builtInPairs[reg] {
		return true
	}
	for _, h := range a.cfg.Pairs[reg] {
		if oci.CanonicalHost(h) == host {
			return true
		}
	}
	return a.named(own) && a.named(host) && sameDomain(own, host)
}

// named reports whether the operator named the host anywhere.
func (a *Authorizer) named(host string) bool {
	return (*a.loginHosts.Load())[host] || a.cfg.Named != nil && a.cfg.Named(host)
}

// sameDomain reports whether two names lie under one registrable domain, by the public suffix list with its private
// section: tenants of github.io or amazonaws.com are strangers to each other. Addresses have no domain.
func sameDomain(a, b string) bool {
	for _, host := range []string{a, b} {
		if _, err := netip.ParseAddr(host); err == nil {
			return false
		}
	}
	domainA, errA := publicsuffix.EffectiveTLDPlusOne(a)
	domainB, errB := publicsuffix.EffectiveTLDPlusOne(b)
	return errA == nil && errB == nil && domainA == domainB
}

// privateStranger reports whether a registry in public names an address of a private network as its realm, unpaired: to
// ask there, even as nobody, would be to ask what the registry itself cannot reach.
func (a *Authorizer) privateStranger(reg oci.Registry, r realm) bool {
	private := func(host string) bool {
		addr, err := netip.ParseAddr(host)
		return err == nil && (addr.Unmap().IsPrivate() || addr.Unmap().IsLoopback() || addr.Unmap().IsLinkLocalUnicast())
	}
	return private(r.host) && !private(hostOf(reg.Authority())) && !a.paired(reg, r.host)
}

// protected reports whether what is sent to the realm for the registry travels over verified TLS, or where the operator
// gave that up: a registry in plain HTTP on the same host, or a host named insecure.
func (a *Authorizer) protected(reg oci.Registry, r realm) bool {
	return r.url.Scheme == "https" || reg.Plain() && r.host == hostOf(reg.Authority()) || a.insecure(r.host)
}

func (a *Authorizer) insecure(host string) bool { return a.cfg.Insecure != nil && a.cfg.Insecure(host) }
