package app

import (
	"fmt"
	"net"
	"os"
	"strconv"
)

// firstActivated is the descriptor of the first socket that systemd hands over, sd_listen_fds(3).
const firstActivated = 3

// listenForClients is the socket that systemd has opened for this process, or one on the address. systemd keeps its socket
// open: clients that connect while the proxy is restarted wait for it, and are not refused.
func listenForClients(address string) (net.Listener, error) {
	listener, err := activated(os.Getenv, firstActivated)
	if err != nil || listener != nil {
		return listener, err
	}
	return net.Listen("tcp", address)
}

// activated returns the socket that systemd has opened for this process as the descriptor first, or nil if it has not:
//
//	LISTEN_PID=4711  LISTEN_FDS=1
//
// A socket that is meant for another process, such as the one that started this one, is left alone.
func activated(getenv func(string) string, first int) (net.Listener, error) {
	if getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	if n := getenv("LISTEN_FDS"); n != "1" {
		return nil, fmt.Errorf("LISTEN_FDS=%s: want one socket, for clients: one ListenStream in the .socket unit", n)
	}
	file := os.NewFile(uintptr(first), "clients' socket")
	defer file.Close() // the listener has a copy, which programs that are started do not inherit
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("socket of systemd: %w", err)
	}
	if _, ok := listener.(*net.TCPListener); !ok {
		_ = listener.Close()
		return nil, fmt.Errorf("socket of systemd: is of network %s: want TCP, such as ListenStream=3128", listener.Addr().Network())
	}
	return listener, nil
}
