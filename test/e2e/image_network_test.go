package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// network is a network namespace of the test's own, where every port is free and there is a loopback device alone.
type network struct{ pid int } // of a process that lives in it

func newNetwork(t *testing.T) *network {
	t.Helper()
	need(t, "ip", "unshare", "nsenter")
	d := command{args: []string{"unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"}}.start(t)
	d.awaitReady(func() error {
		if !strings.Contains(d.text(), "up") {
			return errors.New("no loopback yet")
		}
		return nil
	})
	return &network{pid: d.cmd.Process.Pid}
}

// The two ends of a cable.
const (
	nearEnd = "10.212.0.1"
	farEnd  = "10.212.0.2"
)

// neighbour is another network, at the far end of a cable whose near end is in this one.
func (n *network) neighbour(t *testing.T) *network {
	t.Helper()
	far := newNetwork(t)
	command{args: n.enter("sh", "-ec", fmt.Sprintf(`ip link add cable type veth peer name cable netns %d
ip address add %s/24 dev cable
ip link set cable up`, far.pid, nearEnd))}.run(t)
	command{args: far.enter("sh", "-ec", fmt.Sprintf("ip address add %s/24 dev cable\nip link set cable up", farEnd))}.run(t)
	return far
}

// enter is a command in this network.
func (n *network) enter(args ...string) []string {
	return append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", n.pid), "--"}, args...)
}

// dial connects to an address of this network. It is for addresses, not for names.
func (n *network) dial(ctx context.Context, kind, address string) (conn net.Conn, err error) {
	err = n.within(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, kind, address)
		return err
	})
	return conn, err
}

// within does something in this network, such as to open a socket, which stays there.
func (n *network) within(do func() error) error {
	done := make(chan error, 1)
	go func() { // until it is done
		err := n.stay()
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// The process's first thread never ends, and is what /proc/self tells of: stay must not get it. What holds it from now on
// is the goroutine of TestMain.
func init() { runtime.LockOSThread() }

// stay moves the calling goroutine into this network, for good: its thread ends with it.
func (n *network) stay() error {
	runtime.LockOSThread()
	space, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid))
	if err != nil {
		return err
	}
	defer space.Close()
	return unix.Setns(int(space.Fd()), unix.CLONE_NEWNET)
}

// client is a client in this network. Names of hosts that it is given go to their addresses.
func (n *network) client(t *testing.T, transport *http.Transport, hosts map[string]string) *http.Client {
	transport.DialContext = func(ctx context.Context, kind, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if at, ok := hosts[host]; ok {
			host = at
		}
		return n.dial(ctx, kind, net.JoinHostPort(host, port))
	}
	transport.DisableCompression = true
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
