package dial

import (
	"fmt"
	"strconv"
	"strings"
)

// DefaultTunnelPorts is the default of TUNNEL_PORTS.
const DefaultTunnelPorts = "443 80 1024-65535"

// PortSet is a set of ports. The zero value is unset and stands for [DefaultTunnelPorts].
type PortSet struct {
	ranges []portRange
}

type portRange struct{ first, last uint16 }

// ParsePortSet parses ports and ranges of ports between spaces or commas, "443 80 1024-65535" for example.
func ParsePortSet(s string) (PortSet, error) {
	var set PortSet
	for _, field := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' }) {
		first, last, isRange := strings.Cut(field, "-")
		if !isRange {
			last = first
		}
		a, errA := parsePort(first)
		b, errB := parsePort(last)
		if errA != nil || errB != nil || a > b {
			return PortSet{}, fmt.Errorf("%q: want ports and ranges from 1 to 65535, such as %q", field, DefaultTunnelPorts)
		}
		set.ranges = append(set.ranges, portRange{a, b})
	}
	if len(set.ranges) == 0 {
		return PortSet{}, fmt.Errorf("no ports: want ports and ranges from 1 to 65535, such as %q", DefaultTunnelPorts)
	}
	return set, nil
}

// defaultTunnelPorts is DefaultTunnelPorts, parsed.
func defaultTunnelPorts() PortSet {
	return PortSet{ranges: []portRange{{443, 443}, {80, 80}, {1024, 65535}}}
}

// Contains reports whether port is in the set.
func (p PortSet) Contains(port uint16) bool {
	for _, r := range p.ranges {
		if r.first <= port && port <= r.last {
			return true
		}
	}
	return false
}

// Lists reports whether the set names port by itself, not within a range.
func (p PortSet) Lists(port uint16) bool {
	for _, r := range p.ranges {
		if r.first == port && r.last == port {
			return true
		}
	}
	return false
}

// String spells the set as ParsePortSet reads it.
func (p PortSet) String() string {
	var fields []string
	for _, r := range p.ranges {
		if r.first == r.last {
			fields = append(fields, strconv.Itoa(int(r.first)))
			continue
		}
		fields = append(fields, fmt.Sprintf("%d-%d", r.first, r.last))
	}
	return strings.Join(fields, " ")
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' {
		return 0, fmt.Errorf("port %q: want a number from 1 to 65535", s)
	}
	return uint16(n), nil
}
