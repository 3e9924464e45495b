package setup

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// hostPort takes apart what a client may have called this proxy: a name (with the underscores of container names), an
// IPv4 address or an IPv6 address in brackets, and a port if it is not 80. Nothing in it means anything to a shell, to
// sed or to systemd.
var hostPort = regexp.MustCompile(`^([a-z0-9_](?:[a-z0-9._-]{0,252})|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?$`)

// clientAddress is what a client calls the proxy, such as a request's Host, as it goes into a script, in lower case: host or host:port. It is not ok if a client
// could not use it.
func clientAddress(host string) (address string, ok bool) {
	address = strings.ToLower(host)
	parts := hostPort.FindStringSubmatch(address)
	if parts == nil {
		return "", false
	}
	if ip, inBrackets := strings.CutPrefix(parts[1], "["); inBrackets {
		if a, err := netip.ParseAddr(strings.TrimSuffix(ip, "]")); err != nil || !a.Is6() {
			return "", false
		}
	}
	if port := parts[2]; port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", false
		}
	}
	return address, true
}
