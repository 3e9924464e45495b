package app

import (
	"fmt"
	"net"
	"os"
	"strings"
)

// The states that systemd is told of, sd_notify(3).
const (
	stateReady    = "READY=1"
	stateStopping = "STOPPING=1"
)

// tell is [tellSystemd] by an App that goes on whether systemd hears it or not.
func (a *App) tell(state string) {
	if err := tellSystemd(state); err != nil {
		a.log.Warn("systemd is not told of the proxy's state", "state", state, "err", err)
	}
}

// tellSystemd tells systemd of a state, if systemd has started this process and waits to be told (Type=notify):
//
//	NOTIFY_SOCKET=/run/systemd/notify
func tellSystemd(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	if strings.HasPrefix(name, "@") {
		name = "\x00" + name[1:] // an abstract socket
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("NOTIFY_SOCKET=%s: %w", name, err)
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}
