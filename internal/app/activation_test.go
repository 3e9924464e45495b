package app

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// descriptor is a copy of a listener's that nobody else closes.
func descriptor(t *testing.T, l interface{ File() (*os.File, error) }) int {
	t.Helper()
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd, err := syscall.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func environment(pid int, fds string) func(string) string {
	return func(name string) string {
		return map[string]string{"LISTEN_PID": strconv.Itoa(pid), "LISTEN_FDS": fds}[name]
	}
}

// Who connects before the proxy is there is served once it is: systemd's socket takes the connection.
func TestActivatedSocket(t *testing.T) {
	t.Parallel()
	opened, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	early, err := net.Dial("tcp", opened.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	listener, err := activated(environment(os.Getpid(), "1"), descriptor(t, opened.(*net.TCPListener)))
	if err != nil || listener == nil {
		t.Fatalf("activated = %v, %v", listener, err)
	}
	if got, want := listener.Addr().String(), opened.Addr().String(); got != want {
		t.Errorf("address is %s, want %s", got, want)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := conn.RemoteAddr().String(), early.LocalAddr().String(); got != want {
		t.Errorf("accepted %s, want the early client %s", got, want)
	}
	_ = conn.Close()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	// The proxy has let go of it, and systemd's copy still takes clients.
	late, err := net.Dial("tcp", opened.Addr().String())
	if err != nil {
		t.Fatalf("connect between two processes: %v", err)
	}
	_ = late.Close()
}

func TestNotActivated(t *testing.T) {
	t.Parallel()
	for name, pid := range map[string]int{"for another process": os.Getppid(), "unset": 0} {
		if listener, err := activated(environment(pid, "1"), -1); listener != nil || err != nil {
			t.Errorf("%s: activated = %v, %v, want nothing", name, listener, err)
		}
	}
}

func TestBadActivation(t *testing.T) {
	t.Parallel()
	if _, err := activated(environment(os.Getpid(), "2"), -1); err == nil || !strings.Contains(err.Error(), "want one socket") {
		t.Errorf("two sockets: %v", err)
	}
	if _, err := activated(environment(os.Getpid(), "1"), 1<<20); err == nil {
		t.Error("a descriptor that is not open: no error")
	}
	local, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if _, err := activated(environment(os.Getpid(), "1"), descriptor(t, local.(*net.UnixListener))); err == nil || !strings.Contains(err.Error(), "ListenStream=3128") {
		t.Errorf("a local socket: %v", err)
	}
}
