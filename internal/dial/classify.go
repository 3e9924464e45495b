package dial

import (
	"encoding/binary"
	"net/netip"
)

// class is the kind of an address, from the one anybody may dial to those that need a setting.
type class int

const (
	public class = iota
	private
	loopback
	linkLocal
	metadata
	multicast
	unspecified
	broadcast
	ours
)

// String completes the sentence "connection refused: …".
func (c class) String() string {
	return [...]string{"public address", "private address", "loopback address", "link-local address", "cloud metadata address",
		"multicast address", "unspecified address", "broadcast or reserved address", "address of this machine"}[c]
}

// classify tells what kind of address addr, unmapped and without zone, is. An IPv6 address that carries an IPv4 address
// for a translator or a relay (NAT64, 6to4, Teredo and the like) is what the carried address is, unless that is public.
func classify(addr netip.Addr) class {
	for _, k := range known {
		if k.prefix.Contains(addr) {
			return k.class
		}
	}
	if carried, ok := carriedIPv4(addr); ok {
		return classify(carried)
	}
	return public
}

// known is searched in order: what is narrower comes first.
var known = []struct {
	prefix netip.Prefix
	class  class
}{
	{netip.MustParsePrefix("169.254.169.254/32"), metadata},     // AWS, Google, Azure and nearly everybody else
	{netip.MustParsePrefix("169.254.170.0/24"), metadata},       // AWS ECS task credentials
	{netip.MustParsePrefix("100.100.100.200/32"), metadata},     // Alibaba
	{netip.MustParsePrefix("168.63.129.16/32"), metadata},       // Azure's WireServer
	{netip.MustParsePrefix("192.0.0.192/32"), metadata},         // Oracle's older one
	{netip.MustParsePrefix("fd00:ec2::/32"), metadata},          // AWS
	{netip.MustParsePrefix("fd20:ce::254/128"), metadata},       // Google
	{netip.MustParsePrefix("fd00:42::42/128"), metadata},        // Scaleway
	{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), metadata}, // Oracle
	{netip.MustParsePrefix("fd00:a9fe:a9fe::1/128"), metadata},  // Akamai
	{netip.MustParsePrefix("fd00:100::100:200/128"), metadata},  // Alibaba
	{netip.MustParsePrefix("127.0.0.0/8"), loopback},
	{netip.MustParsePrefix("::1/128"), loopback},
	{netip.MustParsePrefix("0.0.0.0/8"), unspecified}, // Linux reaches itself through 0.0.0.0
	{netip.MustParsePrefix("::/128"), unspecified},
	{netip.MustParsePrefix("169.254.0.0/16"), linkLocal},
	{netip.MustParsePrefix("fe80::/10"), linkLocal},
	{netip.MustParsePrefix("224.0.0.0/4"), multicast},
	{netip.MustParsePrefix("ff00::/8"), multicast},
	{netip.MustParsePrefix("240.0.0.0/4"), broadcast},
	{netip.MustParsePrefix("10.0.0.0/8"), private},
	{netip.MustParsePrefix("172.16.0.0/12"), private},
	{netip.MustParsePrefix("192.168.0.0/16"), private},
	{netip.MustParsePrefix("100.64.0.0/10"), private}, // carrier-grade NAT, Tailscale
	{netip.MustParsePrefix("198.18.0.0/15"), private}, // benchmarks
	{netip.MustParsePrefix("192.0.0.0/24"), private},  // protocol assignments
	{netip.MustParsePrefix("fc00::/7"), private},
	{netip.MustParsePrefix("fec0::/10"), private}, // site-local, as it was once called
}

// carriers are the IPv6 prefixes whose addresses lead a packet to an IPv4 address written at offset.
var carriers = []struct {
	prefix   netip.Prefix
	offset   int
	inverted bool
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12, false},    // NAT64, RFC 6052
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12, false},  // NAT64 for local use, RFC 8215
	{netip.MustParsePrefix("2002::/16"), 2, false},        // 6to4, RFC 3056
	{netip.MustParsePrefix("2001::/32"), 12, true},        // Teredo, RFC 4380
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12, false}, // IPv4-translated, RFC 2765
	{netip.MustParsePrefix("::/96"), 12, false},           // IPv4-compatible, RFC 4291
}

// carriedIPv4 returns the IPv4 address that addr carries.
func carriedIPv4(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	for _, c := range carriers {
		if !c.prefix.Contains(addr) {
			continue
		}
		v4 := binary.BigEndian.Uint32(b[c.offset:])
		if c.inverted {
			v4 = ^v4
		}
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v4))), true
	}
	// ISATAP (RFC 5214) may stand below any prefix: …:0:5efe:a.b.c.d
	if b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		return netip.AddrFrom4([4]byte(b[12:16])), true
	}
	return netip.Addr{}, false
}
