package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"container-registry-proxy/internal/registrytest"
)

// forbidden are addresses that no client may have the proxy connect to, in spellings that somebody or other takes for
// them. A name is followed by "=" and what the name server says of it.
var forbidden = []string{
	// Loopback.
	"127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "127.255.255.254", "0177.0.0.1", "0177.1", "017700000001", "0x7f.0.0.1", "0x7f.1", "0x7f000001", "0X7F000001",
	"2130706433", "127.0.0.01", "127.000.000.001", "00127.0.0.1", "127.0.0.0x1", "[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::ffff:127.0.0.1]",
	"[::ffff:7f00:1]", "[::127.0.0.1]", "[::7f00:1]", "localhost", "localhost.", "LOCALHOST", "localhost.localdomain=127.0.0.1", "four.test=127.0.0.1", "FOUR.test.=127.0.0.1",
	"six.test=::1", "both.test=127.0.0.1 ::1", "mapped.test=::ffff:127.0.0.1",
	// What leads to this machine otherwise.
	"0", "0.0.0.0", "0.0.0.1", "00", "0x0", "000.000.000.000", "[::]", "[::0]", "[::ffff:0.0.0.0]", "[::ffff:0:0]", "any.test=0.0.0.0", "any6.test=::",
	nearEnd, nearEnd + ".", "[fd12::1]", "[::ffff:" + nearEnd + "]", "self.test=" + nearEnd, "self6.test=fd12::1", "[64:ff9b::" + nearEnd + "]",
	// Translators and relays.
	"[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::a9fe:a9fe]", "[2002:7f00:1::1]", "[2002:a9fe:a9fe::1]", "[2001:0:1:2:3:4:80ff:fffe]",
	"[2001:0:1:2:3:4:5601:5601]", "[::ffff:0:127.0.0.1]", "[fd12::5efe:127.0.0.1]", "[fd12::200:5efe:7f00:1]", "nat64.test=64:ff9b::a9fe:a9fe", "sixtofour.test=2002:7f00:1::1",
	// Metadata.
	"169.254.169.254", "169.254.169.254.", "2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe", "025177524776", "0251.0376.0251.0376", "169.16689662", "169.254.43518",
	"[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "[fd00:0ec2:0:0:0:0:0:254]", "[fd20:ce::254]", "[fd00:c1::a9fe:a9fe]", "[fd00:a9fe:a9fe::1]", "[fd00:100::100:200]", "[fd00:42::42]", "100.100.100.200", "168.63.129.16", "169.254.170.2", "192.0.0.192",
	"metadata.google.internal=169.254.169.254", "metadata=169.254.169.254", "ali.test=100.100.100.200", "aws6.test=fd00:ec2::254",
	// Link-local, multicast, broadcast, reserved.
	"169.254.0.1", "[fe80::1]", "[fe80::1%25cable]", "[fe80::1%25lo]", "[fe80::1%252]", "224.0.0.1", "239.255.255.250", "[ff02::1]", "[ff02::1%25cable]", "255.255.255.255", "240.0.0.1",
	"link.test=169.254.0.1", "group.test=224.0.0.1", "link6.test=fe80::1",
	// Other alphabets and encodings. None of them is a host that a request may name.
	"xn--127-0-0-1=127.0.0.1", "１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1", "ⓛocalhost", "127.0.0.1%2e", "%31%32%37.0.0.1", "%6cocalhost",
}

// refusedAs reports whether a status is a refusal of a host: 403, or 400 where no request may name it so.
func refusedAs(status int, host string) bool {
	odd := strings.Trim(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.:[]") != ""
	return status == http.StatusForbidden || odd && status == http.StatusBadRequest
}

// ways are the places in which a client, or a registry, may name a host.
var ways = []struct {
	name    string
	request func(host string, n int) string
	refused func(status int, host string) bool
}{
	{"CONNECT", func(host string, _ int) string { return "CONNECT " + host + ":443 HTTP/1.1\r\nHost: " + host + ":443" }, refusedAs},
	{"CONNECT to itself", func(host string, _ int) string {
		return "CONNECT " + host + ":3128 HTTP/1.1\r\nHost: " + host + ":3128"
	}, refusedAs},
	{"plain HTTP", func(host string, _ int) string {
		return "GET http://" + host + "/latest/meta-data/ HTTP/1.1\r\nHost: " + host
	}, refusedAs},
	{"?ns=", func(host string, _ int) string {
		return getting("/v2/team/app/manifests/1?ns=" + url.QueryEscape(host))
	}, refusedAs},
	{"path", func(host string, _ int) string {
		return getting("/v2/" + url.PathEscape(host+":443") + "/team/app/manifests/1")
	}, refusedAs},
	{"realm", func(_ string, n int) string { return getting(fmt.Sprintf("/v2/realm/r%d/manifests/1?ns=evil.test", n)) }, func(status int, _ string) bool {
		return status == http.StatusUnauthorized // as the registry said
	}},
	{"redirect", func(_ string, n int) string {
		return getting(fmt.Sprintf("/v2/redirect/r%d/manifests/1?ns=evil.test", n))
	}, func(status int, _ string) bool {
		return status == http.StatusForbidden || status == http.StatusServiceUnavailable // the registry's fault
	}},
}

func getting(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1:3128" }

// spoken takes an entry of forbidden apart.
func spoken(entry string) (host string, answers []string) {
	host, addresses, _ := strings.Cut(entry, "=")
	return host, strings.Fields(addresses)
}

// Whatever a client or a registry calls it, a forbidden address gets no packet: the proxy runs in a network of its own,
// where every address has a route and each packet is seen.
func TestForbiddenAddressesGetNoPacket(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	far := n.neighbour(t)
	for network, script := range map[*network]string{
		n: `ip address add fd12::1/64 dev cable nodad
ip address add fe80::2/64 dev cable nodad
ip route add default via ` + farEnd + `
ip route add default via fd12::2 dev cable
ip route add multicast 224.0.0.0/4 dev cable`,
		far: "ip address add fd12::2/64 dev cable nodad\nip address add fe80::1/64 dev cable nodad",
	} {
		command{args: network.enter("sh", "-ec", script)}.run(t)
	}
	dns := &names{answers: map[string][]string{"evil.test.": {farEnd}}}
	for _, entry := range forbidden {
		if host, answers := spoken(entry); len(answers) > 0 {
			dns.answers[strings.TrimSuffix(strings.ToLower(host), ".")+"."] = answers
		}
	}
	resolv := dns.serve(t, n)
	world := registrytest.NewWorld(t)
	asked := serveEvil(t, world, far)

	const listen, admin = "127.0.0.1:3128", "127.0.0.1:3129"
	dir := t.TempDir()
	daemon := command{
		args: n.enter(program, "serve"), mounts: append(hostsMount(t, world), "mount --bind "+resolv+" /etc/resolv.conf"),
		env: []string{
			"LISTEN=0.0.0.0:3128", "ADMIN_LISTEN=" + admin, "UPSTREAM_CA_FILE=" + world.CAFile(), "CACHE_MIN_FREE=1m",
			"CACHE_DIRECTORY=" + filepath.Join(dir, "cache"), "CA_DIRECTORY=" + filepath.Join(dir, "ca"), "REGISTRIES=evil.test", "MIRROR_ALL_REGISTRIES=true", "UPSTREAM_GIVE_UP=1s",
		},
	}.start(t)
	daemon.awaitReady(answers(n.client(t, &http.Transport{DisableKeepAlives: true}, nil), "http://"+admin+"/readyz"))
	w := n.listenToWire(t)

	wantSeen(t, n, w)
	if len(forbidden) < 60 {
		t.Errorf("%d spellings, want at least 60", len(forbidden))
	}
	for i, entry := range forbidden {
		host, _ := spoken(entry)
		for _, way := range ways {
			before := asked.Load()
			if status := ask(t, n, way.request(host, i)); !way.refused(status, host) {
				t.Errorf("%s by %s: %d", host, way.name, status)
			}
			if registry := way.name == "realm" || way.name == "redirect"; registry && asked.Load() == before {
				t.Errorf("%s by %s: the registry was not asked", host, way.name)
			}
			for _, p := range strangers(w.take()) {
				t.Errorf("%s by %s: %v", host, way.name, p)
			}
		}
	}
	dns.mu.Lock()
	defer dns.mu.Unlock()
	if len(dns.strange) > 0 {
		t.Errorf("the name server was asked for %q, which are no names", dns.strange)
	}
}

// wantSeen checks that packets are seen: those of this test's own to some of the addresses, and the proxy's to one that
// is allowed.
func wantSeen(t *testing.T, n *network, w *wire) {
	t.Helper()
	for _, address := range []string{
		"127.0.0.1:443", "[::1]:443", "169.254.169.254:443", "[fd00:ec2::254]:443", "[64:ff9b::7f00:1]:443", "[2002:7f00:1::1]:443", "[fe80::1%cable]:443", nearEnd + ":443",
	} {
		w.take()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if conn, err := n.dial(ctx, "tcp", address); err == nil {
			_ = conn.Close()
		}
		cancel()
		if seen := w.take(); len(strangers(seen)) == 0 {
			t.Errorf("a connect to %s was not seen, so the counts show nothing: %v", address, seen)
		}
	}
	status := ask(t, n, "CONNECT "+farEnd+":443 HTTP/1.1\r\nHost: "+farEnd+":443")
	seen := slices.ContainsFunc(w.take(), func(p packet) bool { return p.opens && p.to == netip.MustParseAddrPort(farEnd+":443") })
	if status != http.StatusOK || !seen {
		t.Errorf("a tunnel to an allowed address: %d, seen %v", status, seen)
	}
}

// strangers are the packets that nobody may send: all but those between the client and the proxy on the client's one
// connection, and between the proxy and its name server and the evil registry.
func strangers(seen []packet) (strange []packet) {
	connects := 0
	for _, p := range seen {
		ours := p.from.Port() == 3128 || p.to.Port() == 3128
		if ours && p.opens {
			connects++
		}
		if ours && connects <= 1 || isPeer(p, farEnd+":443") || isPeer(p, "127.0.0.1:53") {
			continue
		}
		strange = append(strange, p)
	}
	return strange
}

// isPeer reports whether a packet is from or to an address.
func isPeer(p packet, address string) bool {
	peer := netip.MustParseAddrPort(address)
	return p.from == peer || p.to == peer
}

// ask sends the head of a request to the proxy and returns the status of its answer.
func ask(t *testing.T, n *network, head string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	conn, err := n.dial(ctx, "tcp4", "127.0.0.1:3128")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, head+"\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(commandTimeout)); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(head, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%q: %v", head, err)
	}
	defer resp.Body.Close()
	if method != http.MethodConnect || resp.StatusCode != http.StatusOK {
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	return resp.StatusCode
}

// serveEvil starts a registry at the far end of the cable that names forbidden addresses, by their number, as its token
// service or as where a manifest is. It counts what it is asked.
func serveEvil(t *testing.T, world *registrytest.World, far *network) *atomic.Int64 {
	t.Helper()
	listener, err := far.listen(t.Context(), farEnd+":443")
	if err != nil {
		t.Fatal(err)
	}
	asked := new(atomic.Int64)
	server := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		parts := strings.Split(r.URL.Path, "/")
		var i int
		if len(parts) < 4 || !scan(parts[3], &i) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		host, _ := spoken(forbidden[i])
		if parts[2] == "realm" {
			w.Header()["WWW-Authenticate"] = []string{`Bearer realm="https://` + host + `/token",service="x"`}
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header()["Location"] = []string{"https://" + host + "/manifest"}
		w.WriteHeader(http.StatusTemporaryRedirect)
	})}
	ended := make(chan error, 1)
	go func() { // until the clean-up, which waits for it
		ended <- server.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{world.Certificate(time.Now().Add(time.Hour), "evil.test")}}))
	}()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return asked
}

func scan(repository string, i *int) bool {
	_, err := fmt.Sscanf(repository, "r%d", i)
	return err == nil && *i >= 0 && *i < len(forbidden)
}
