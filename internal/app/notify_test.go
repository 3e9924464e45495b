package app_test

import (
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// systemd is told when clients are served, and when they are no more.
func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	hear := func(want string) {
		t.Helper()
		_ = manager.SetReadDeadline(time.Now().Add(time.Minute))
		var state [100]byte
		if n, err := manager.Read(state[:]); err != nil || string(state[:n]) != want {
			t.Errorf("systemd is told %q, %v, want %q", state[:n], err, want)
		}
	}
	p := spawn(t, t.TempDir(), "NOTIFY_SOCKET="+name)
	hear("READY=1")
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear("STOPPING=1")
	if err := p.Wait(); err != nil {
		t.Errorf("the proxy ends with %v:\n%s", err, p.log)
	}
}
