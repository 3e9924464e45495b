package dial

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// target is what a caller asked for: a name to look up, or an address.
type target struct {
	asked string // for messages
	host  string // lower case, without brackets and trailing dot
	addr  netip.Addr
	port  uint16
}

// parseTarget takes "host:port" apart. A host that a resolver might read as an address although it is not written as
// one ("127.1", "0x7f.1", "2130706433", "0") is refused here, and never reaches a resolver.
func parseTarget(address string) (target, error) {
	if len(address) > 300 {
		return target{}, &RefusedError{Address: fmt.Sprintf("%.40q…", address), Reason: "not a host name"}
	}
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return target{}, &RefusedError{Address: quote(address), Reason: "not host:port"}
	}
	port, err := parsePort(portText)
	if err != nil {
		return target{}, &RefusedError{Address: quote(address), Reason: "port is not a number from 1 to 65535"}
	}
	t := target{asked: address, host: strings.TrimSuffix(strings.ToLower(host), "."), port: port}
	if addr, err := netip.ParseAddr(t.host); err == nil {
		if addr.Zone() != "" {
			return target{}, &RefusedError{Address: quote(address), Reason: "address with a zone"}
		}
		t.addr = addr.Unmap()
		return t, nil
	}
	if !isName(t.host) {
		return target{}, &RefusedError{Address: quote(address), Reason: "not a host name"}
	}
	if endsInNumber(t.host) {
		return target{}, &RefusedError{Address: quote(address), Reason: "odd spelling of an address"}
	}
	return t, nil
}

// quote makes what a stranger wrote safe to show.
func quote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:[]%") == "" {
		return s
	}
	return fmt.Sprintf("%+q", s)
}

// isName reports whether host is a DNS name: ASCII, no empty label.
func isName(host string) bool {
	if len(host) > 253 {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// endsInNumber is the URL standard's test for what looks like an IPv4 address: no top-level domain is a number.
func endsInNumber(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}
