package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// packet is one that left a socket of a network, over whatever device.
type packet struct {
	protocol byte
	from, to netip.AddrPort
	opens    bool // it is the first of a TCP connection
}

func (p packet) String() string {
	name, known := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[p.protocol]
	if !known {
		name = fmt.Sprint("protocol ", p.protocol)
	}
	return fmt.Sprintf("%s %s > %s", name, p.from, p.to)
}

// wire sees every packet that leaves a socket in a network: a raw socket on all its devices.
type wire struct {
	t   *testing.T
	fd  int
	own net.PacketConn // sends to itself

	mu   sync.Mutex // guards seen
	seen []packet
}

// listenToWire begins to listen. It ends with the test.
func (n *network) listenToWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{t: t}
	const everything = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
	err := n.within(func() (err error) {
		if w.own, err = new(net.ListenConfig).ListenPacket(t.Context(), "udp4", "127.0.0.1:0"); err != nil {
			return err
		}
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, everything)
		return err
	})
	if err != nil {
		t.Fatalf("raw socket: %v", err)
	}
	if err := unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // until the clean-up, which waits for it
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				w.read()
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
		if stats, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || stats.Drops > 0 {
			t.Errorf("packets were not seen: %+v, %v", stats, err)
		}
		_ = unix.Close(w.fd)
		_ = w.own.Close()
	})
	return w
}

// read takes one packet, if there is one. What arrives was seen when it left.
func (w *wire) read() {
	buf := make([]byte, 128)
	n, from, err := unix.Recvfrom(w.fd, buf, 0)
	if err != nil {
		return
	}
	if link, ok := from.(*unix.SockaddrLinklayer); !ok || link.Pkttype != unix.PACKET_OUTGOING {
		return
	}
	p, ok := parsePacket(buf[:n])
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, p)
}

// parsePacket understands IP. What keeps a link going, ARP, and neighbours and groups of IPv6, is nobody's packet.
func parsePacket(b []byte) (p packet, ok bool) {
	var from, to netip.Addr
	var payload []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		p.protocol, from, to = b[9], netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		payload = b[min(len(b), int(b[0]&15)*4):]
	case len(b) >= 40 && b[0]>>4 == 6:
		p.protocol, from, to = b[6], netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		payload = b[40:]
	default:
		return packet{}, false
	}
	const icmp6, hopByHop = 58, 0
	if p.protocol == icmp6 || p.protocol == hopByHop {
		return packet{}, false
	}
	var fromPort, toPort uint16
	if (p.protocol == unix.IPPROTO_TCP || p.protocol == unix.IPPROTO_UDP) && len(payload) >= 4 {
		fromPort, toPort = binary.BigEndian.Uint16(payload), binary.BigEndian.Uint16(payload[2:])
	}
	const syn, ack = 0x02, 0x10
	p.opens = p.protocol == unix.IPPROTO_TCP && len(payload) >= 14 && payload[13]&(syn|ack) == syn
	p.from, p.to = netip.AddrPortFrom(from, fromPort), netip.AddrPortFrom(to, toPort)
	return p, true
}

// take returns all packets so far. To know that none is on its way still, it sends one last and waits for it.
func (w *wire) take() []packet {
	w.t.Helper()
	if _, err := w.own.WriteTo([]byte("last"), w.own.LocalAddr()); err != nil {
		w.t.Fatal(err)
	}
	last := w.own.LocalAddr().(*net.UDPAddr).AddrPort()
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		i := slices.IndexFunc(w.seen, func(p packet) bool { return p.protocol == unix.IPPROTO_UDP && p.from == last })
		if i >= 0 {
			seen := w.seen[:i]
			w.seen = w.seen[i+1:]
			w.mu.Unlock()
			return seen
		}
		w.mu.Unlock()
		if time.Now().After(deadline) {
			w.t.Fatal("the last packet was not seen")
		}
	}
}

// names is a name server: it knows the addresses of some names, and remembers what else it was asked.
type names struct {
	answers map[string][]string

	mu      sync.Mutex // guards strange
	strange []string
}

// serve has a network's programs resolve names here, by the file that it returns, a resolv.conf.
func (s *names) serve(t *testing.T, n *network) (resolv string) {
	t.Helper()
	var conn net.PacketConn
	err := n.within(func() (err error) {
		conn, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp", "127.0.0.1:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // until the clean-up, which waits for it
		defer close(ended)
		buf := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := s.answer(buf[:size]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
	return writeFile(t, t.TempDir()+"/resolv.conf", "nameserver 127.0.0.1\n")
}

func (s *names) answer(question []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Additionals = true, nil
	known, ok := s.answers[q.Name.String()]
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
		s.mu.Lock()
		s.strange = append(s.strange, q.Name.String())
		s.mu.Unlock()
	}
	header := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}
	for _, text := range known {
		addr := netip.MustParseAddr(text)
		switch {
		case q.Type == dnsmessage.TypeA && addr.Is4():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}})
		case q.Type == dnsmessage.TypeAAAA && addr.Is6():
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	return packed
}
