package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"container-registry-proxy/internal/oci"
)

// defaultRegistries is the union of what the originals list.
const defaultRegistries = "registry.k8s.io k8s.gcr.io gcr.io quay.io ghcr.io"

// hubHosts are Docker Hub's: one registry under three names, and its token service.
var hubHosts = []string{"registry-1.docker.io", "auth.docker.io", "docker.io", "index.docker.io"}

// HostSet is the set of hosts that are intercepted, with nginx's wildcards. The zero value is empty. It is safe for
// concurrent use.
type HostSet struct {
	exact     map[hostPort]bool // port "" is the default port of whatever is spoken
	wildcards []wildcard
	named     map[string]bool // hosts, without port, that the operator wrote
}

type hostPort struct{ host, port string }

// wildcard is one of "*.example.com" (below), ".example.com" (below and apex) and "example.*" (tail).
type wildcard struct {
	below string // "example.com"
	apex  bool
	tail  string // "example"
	port  string
}

func (w wildcard) matches(host string) bool {
	if w.tail != "" {
		return strings.HasPrefix(host, w.tail+".") && len(host) > len(w.tail)+1
	}
	return w.apex && host == w.below || strings.HasSuffix(host, "."+w.below) && len(host) > len(w.below)+1
}

// newHostSet returns the set of Docker Hub's hosts.
func newHostSet() HostSet {
	s := HostSet{exact: map[hostPort]bool{}, named: map[string]bool{}}
	for _, host := range hubHosts {
		s.exact[hostPort{host, ""}] = true
	}
	return s
}

// clone returns a set that later additions to s do not change.
func (s HostSet) clone() HostSet {
	return HostSet{exact: maps.Clone(s.exact), wildcards: slices.Clone(s.wildcards), named: maps.Clone(s.named)}
}

// add names a host or a wildcard, with or without a port.
func (s *HostSet) add(text string) error {
	if strings.Contains(text, "*") || strings.HasPrefix(text, ".") {
		w, err := parseWildcard(text)
		if err != nil {
			return err
		}
		s.wildcards = append(s.wildcards, w)
		return nil
	}
	host, port, err := splitAuthority(text)
	if err != nil {
		return explainHost(text)
	}
	s.exact[hostPort{host, port}] = true
	s.named[host] = true
	if slices.Contains(hubHosts, host) && host != "auth.docker.io" {
		s.named["docker.io"], s.named["index.docker.io"], s.named["registry-1.docker.io"] = true, true, true
	}
	return nil
}

// explainHost says what is wrong with something that is no host[:port].
func explainHost(text string) error {
	if u, err := url.Parse(text); err == nil && u.Scheme != "" && u.Host != "" {
		return fmt.Errorf("%s: want the host alone, such as %s", show(text), show(u.Host))
	}
	if host, path, found := strings.Cut(text, "/"); found && path != "" {
		return fmt.Errorf("%s: want the registry alone, without a repository, such as %s", show(text), show(host))
	}
	if strings.HasPrefix(text, "~") {
		return fmt.Errorf("%s: regular expressions are not supported: want host[:port], *.example.com or .example.com", show(text))
	}
	if strings.Contains(text, ",") {
		return fmt.Errorf("%s: want spaces between hosts, such as %s", show(text), show(strings.ReplaceAll(text, ",", " ")))
	}
	return fmt.Errorf("%s: want host[:port], such as quay.io or registry.example.com:5000", show(text))
}

// parseWildcard takes nginx's three forms of a wildcard, and a port behind them, which nginx does not have.
func parseWildcard(text string) (wildcard, error) {
	invalid := fmt.Errorf("%s: want a wildcard for whole parts at one end, such as *.example.com, .example.com or example.*", show(text))
	if text == "*" {
		return wildcard{}, errors.New("*: every host cannot be intercepted: want the registries, such as quay.io *.example.com")
	}
	var w wildcard
	pattern := strings.ToLower(text)
	if i := strings.LastIndexByte(pattern, ':'); i >= 0 {
		pattern, w.port = pattern[:i], pattern[i+1:]
	}
	var rest string
	switch {
	case strings.HasPrefix(pattern, "*."):
		rest, w.below = pattern[2:], pattern[2:]
	case strings.HasPrefix(pattern, "."):
		rest, w.below, w.apex = pattern[1:], pattern[1:], true
	case strings.HasSuffix(pattern, ".*"):
		rest, w.tail = pattern[:len(pattern)-2], pattern[:len(pattern)-2]
	default:
		return wildcard{}, invalid
	}
	probe := rest
	if strings.HasSuffix(text, ":") {
		return wildcard{}, invalid
	}
	if w.port != "" {
		probe = net.JoinHostPort(rest, w.port)
	}
	if host, _, err := splitAuthority(probe); err != nil || host != rest || strings.Contains(host, ":") {
		return wildcard{}, invalid
	}
	return w, nil
}

// Match reports whether a CONNECT to authority is intercepted. No port means 443 on either side.
func (s HostSet) Match(authority string) bool { return s.match(authority, "443") }

// MatchPlain reports whether a plain HTTP request to authority is intercepted. No port means 80 on either side.
func (s HostSet) MatchPlain(authority string) bool { return s.match(authority, "80") }

func (s HostSet) match(authority, defaultPort string) bool {
	host, port, err := splitAuthority(authority)
	if err != nil {
		return false
	}
	if port == "" {
		port = defaultPort
	}
	if s.exact[hostPort{host, port}] || port == defaultPort && s.exact[hostPort{host, ""}] {
		return true
	}
	return slices.ContainsFunc(s.wildcards, func(w wildcard) bool {
		return (w.port == port || w.port == "" && port == defaultPort) && w.matches(host)
	})
}

// Intercept returns the registry behind a CONNECT authority, if it is intercepted.
func (s HostSet) Intercept(authority string) (oci.Registry, bool) {
	if !s.Match(authority) {
		return "", false
	}
	reg, err := oci.ParseRegistry(authority)
	return reg, err == nil
}

// InterceptPlain returns the plain HTTP registry behind authority, if it is intercepted.
func (s HostSet) InterceptPlain(authority string) (oci.Registry, bool) {
	if !s.MatchPlain(authority) {
		return "", false
	}
	reg, err := oci.ParsePlainRegistry(authority)
	return reg, err == nil
}

// Exact returns the hosts of the set that are there without a wildcard, sorted: a closed set of names.
func (s HostSet) Exact() []string {
	var hosts []string
	for hp := range s.exact {
		hosts = append(hosts, hp.String())
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// Mirrored returns the registries of the set that have a name of their own, without a wildcard, sorted: Docker Hub once.
func (s HostSet) Mirrored() []string {
	var registries []string
	for _, host := range s.Exact() {
		if reg, ok := s.Intercept(host); ok && host != "auth.docker.io" {
			registries = append(registries, string(reg))
		}
	}
	slices.Sort(registries)
	return slices.Compact(registries)
}

// Named reports whether host, without a port, is one that the operator wrote, whatever port he wrote with it.
func (s HostSet) Named(host string) bool {
	host = oci.CanonicalHost(host)
	return s.named[host] || slices.ContainsFunc(s.wildcards, func(w wildcard) bool { return w.matches(host) })
}

// Owned reports whether host is one that the operator wrote and nobody else can be: under a wildcard that is open at its
// end, such as registry.*, anybody may have a name, and have it lead where he likes.
func (s HostSet) Owned(host string) bool {
	host = oci.CanonicalHost(host)
	return s.named[host] || slices.ContainsFunc(s.wildcards, func(w wildcard) bool { return w.tail == "" && w.matches(host) })
}

func (hp hostPort) String() string {
	if hp.port != "" {
		return net.JoinHostPort(hp.host, hp.port)
	}
	if strings.Contains(hp.host, ":") {
		return "[" + hp.host + "]"
	}
	return hp.host
}

// splitAuthority takes host[:port] apart, the host in its canonical spelling. Whether it is one, package oci decides.
func splitAuthority(authority string) (host, port string, err error) {
	if _, err := oci.ParsePlainRegistry(authority); err != nil {
		return "", "", err
	}
	u := url.URL{Host: authority}
	return oci.CanonicalHost(u.Hostname()), u.Port(), nil
}
