package proxy

import (
	"net"
	"net/url"
	"strings"

	"container-registry-proxy/internal/oci"
)

// target is whom a connection was opened for, in one spelling: no trailing dot, no default port.
type target struct {
	scheme string
	host   string // without port and brackets
	port   string
}

// newTarget takes host[:port] apart. The port of the scheme stands in for none.
func newTarget(scheme, authority string) target {
	u := url.URL{Host: authority}
	port := u.Port()
	if port == "" {
		port = defaultPort(scheme)
	}
	return target{scheme: scheme, host: oci.CanonicalHost(u.Hostname()), port: port}
}

func defaultPort(scheme string) string {
	if scheme == "http" {
		return "80"
	}
	return "443"
}

// String is host[:port] as a Host header has it.
func (t target) String() string {
	if t.port != defaultPort(t.scheme) {
		return net.JoinHostPort(t.host, t.port)
	}
	if strings.Contains(t.host, ":") {
		return "[" + t.host + "]"
	}
	return t.host
}
