package peer

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"container-registry-proxy/bench/load"
	"container-registry-proxy/bench/origin"
)

// The benchmark's own program is started anew for what has to have accounts of its own. Its first argument says what it
// is to be.
const (
	RoleOrigin = "serve-origin"
	RoleLimit  = "serve-limit"
)

// Be serves in a role. The arguments are those that StartOrigin and StartLimit pass.
func Be(role string, args []string) error {
	cert, err := tls.LoadX509KeyPair(args[0], args[1])
	if err != nil {
		return err
	}
	authority, dir, upstream, addrs := args[2], args[3], args[4], args[5:]
	var listeners []net.Listener
	for _, addr := range addrs {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	if role == RoleLimit {
		small, err := newSmallLimit(dir, authority, upstream)
		if err != nil {
			return err
		}
		go func() { _ = small.serve(listeners[1], cert) }() // until the program is ended
		return ServeLimit(listeners[0], cert, filepath.Join(dir, limitBlob))
	}
	return origin.New().Serve(listeners[0], listeners[1], listeners[2], cert)
}

// Origin is the registry behind all peers.
type Origin struct {
	*Process
	Direct  load.Target // TLS
	Plain   load.Target
	Control *origin.Control
}

// StartOrigin starts the origin.
func StartOrigin(ctx context.Context, dir string, certs *Certificates) (*Origin, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	addr := func(i int) string { return net.JoinHostPort("127.0.0.1", ports[i]) }
	o := &Origin{
		Direct:  load.Target{Addr: addr(0), Host: net.JoinHostPort("localhost", ports[0]), TLS: client(certs.Roots)},
		Plain:   load.Target{Addr: addr(1), Host: addr(1)},
		Control: &origin.Control{URL: "http://" + addr(2), Client: &http.Client{}},
	}
	o.Process, err = startSelf(ctx, dir, "origin", RoleOrigin, certs, "-", addr(0), addr(1), addr(2))
	return o, err
}

// Limit is the program that does no more than a hit or a small fill must.
type Limit struct {
	*Process
	Target load.Target
	Small  load.Target // net/http's server
}

// limitBlob is the file that large hits are of.
const limitBlob = "limit.blob"

// StartLimit starts the limit with a file of size bytes, in front of an origin.
func StartLimit(ctx context.Context, dir string, certs *Certificates, o *Origin, size int64) (*Limit, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	if err := writeBlob(filepath.Join(dir, limitBlob), origin.Blob{Size: size}); err != nil {
		return nil, err
	}
	door := func(i int) load.Target {
		return load.Target{Addr: net.JoinHostPort("127.0.0.1", ports[i]), Host: "localhost", TLS: client(certs.Roots)}
	}
	l := &Limit{Target: door(0), Small: door(1)}
	l.Process, err = startSelf(ctx, dir, "limit", RoleLimit, certs, o.Direct.Host, l.Target.Addr, l.Small.Addr)
	return l, err
}

func startSelf(ctx context.Context, dir, name, role string, certs *Certificates, upstream string, addrs ...string) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := append([]string{role, certs.ECDSA, certs.ECDSAKey, certs.Authority, dir, upstream}, addrs...)
	return Start(ctx, Command{Name: name, Path: self, Args: args, Dir: dir, Ready: listens(addrs...)})
}

func writeBlob(name string, blob origin.Blob) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	buffer := make([]byte, 1<<20)
	for off := int64(0); off < blob.Size; {
		n := blob.ReadAt(buffer, off)
		if _, err := f.Write(buffer[:n]); err != nil {
			_ = f.Close()
			return err
		}
		off += int64(n)
	}
	return f.Close()
}
