package oci

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Registry identifies a registry by its canonical host[:port]: lower case, no trailing dot, no default port.
// Docker Hub, whatever its spelling, is "docker.io". A registry that speaks plain HTTP is another registry, and
// begins with "http://". The value is comparable and stable: it is part of keys on disk.
type Registry string

// DockerHub is the canonical name of Docker Hub.
const DockerHub Registry = "docker.io"

// dockerHubHosts are the names under which clients reach Docker Hub's one registry.
var dockerHubHosts = map[string]bool{"docker.io": true, "index.docker.io": true, "registry-1.docker.io": true}

// ParseRegistry canonicalises a host[:port] that speaks HTTPS.
func ParseRegistry(hostport string) (Registry, error) {
	host, port, err := splitHostPort(hostport)
	if err != nil {
		return "", err
	}
	if dockerHubHosts[host] && (port == "" || port == "443") {
		return DockerHub, nil
	}
	return Registry(join(host, port, "443")), nil
}

// ParsePlainRegistry canonicalises a host[:port] that speaks plain HTTP.
func ParsePlainRegistry(hostport string) (Registry, error) {
	host, port, err := splitHostPort(hostport)
	if err != nil {
		return "", err
	}
	return Registry("http://" + join(host, port, "80")), nil
}

// Plain reports whether the registry speaks plain HTTP.
func (r Registry) Plain() bool { return strings.HasPrefix(string(r), "http://") }

// Scheme is "http" or "https".
func (r Registry) Scheme() string {
	if r.Plain() {
		return "http"
	}
	return "https"
}

// Authority is the host[:port] to send requests to. It differs from the name for Docker Hub alone.
func (r Registry) Authority() string {
	if r == DockerHub {
		return "registry-1.docker.io"
	}
	return strings.TrimPrefix(string(r), "http://")
}

// Address is Authority with the port always written out.
func (r Registry) Address() string {
	host, port, _ := splitHostPort(r.Authority())
	if port == "" {
		port = map[bool]string{true: "80", false: "443"}[r.Plain()]
	}
	return net.JoinHostPort(host, port)
}

func (r Registry) String() string { return string(r) }

// CanonicalHost lowers a host name and strips one trailing dot and the brackets of an IPv6 literal.
func CanonicalHost(host string) string {
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

func join(host, port, defaultPort string) string {
	switch {
	case port != "" && port != defaultPort:
		return net.JoinHostPort(host, port)
	case strings.Contains(host, ":"):
		return "[" + host + "]"
	}
	return host
}

// splitHostPort takes host, host:port, [v6], [v6]:port apart; port is "" where there is none.
func splitHostPort(s string) (host, port string, err error) {
	if len(s) > 300 {
		return "", "", fmt.Errorf("host %.40q…: longer than 300 characters", s)
	}
	host = s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		if strings.Contains(s[1:], "[") || !strings.Contains(s, ":") {
			return "", "", fmt.Errorf("host %q: want host[:port]", s)
		}
	} else if strings.Contains(s, ":") {
		if host, port, err = net.SplitHostPort(s); err != nil {
			return "", "", fmt.Errorf("host %q: want host[:port]", s)
		}
		n, err := strconv.Atoi(port)
		if err != nil || n < 1 || n > 65535 || port[0] == '0' || port[0] == '+' {
			return "", "", fmt.Errorf("host %q: port is not a number from 1 to 65535", s)
		}
	}
	host = CanonicalHost(host)
	if !validHost(host) {
		return "", "", fmt.Errorf("host %q: want a host name or an IP address", s)
	}
	return host, port, nil
}

func validHost(host string) bool {
	if strings.Contains(host, ":") {
		return net.ParseIP(host) != nil
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

type registryKey struct{}

// NewContext returns a context that carries the registry a request is meant for.
func NewContext(ctx context.Context, r Registry) context.Context {
	return context.WithValue(ctx, registryKey{}, r)
}

// RegistryFrom returns the registry of a request, and whether there is one.
func RegistryFrom(ctx context.Context) (Registry, bool) {
	r, ok := ctx.Value(registryKey{}).(Registry)
	return r, ok
}
