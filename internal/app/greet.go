package app

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"

	"container-registry-proxy/internal/config"
)

// newLogger writes to w as the configuration says.
func newLogger(cfg *config.Config, level slog.Leveler, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// greet says in a few lines what runs where, and what to do next on a client.
func (a *App) greet(w io.Writer) {
	proxy := cmp.Or(a.cfg.SetupAddress, "http://"+a.clientAddress())
	certificate := a.cfg.CACertFile
	if certificate == "" {
		certificate = filepath.Join(a.cfg.CADirectory, "ca.crt")
	}
	fmt.Fprintf(w, `container-registry-proxy listens on %s for clients, on %s for the operator
  cache  %s, %s at most
  CA     %s
         SHA-256 %s
Next, on a client of this machine:
`, a.front.Addr(), a.admin.Addr(), a.cfg.CacheDirectory, size(a.cfg.CacheMaxSize), certificate, a.parts.authority.Fingerprint())
	fmt.Fprintf(w, `  dockerd     curl -fsS %[1]s/setup/docker | sudo sh
  containerd  curl -fsS %[1]s/setup/containerd | sudo sh
  podman      curl -fsS %[1]s/ca.crt -o ca.crt && HTTPS_PROXY=%[1]s SSL_CERT_FILE=$PWD/ca.crt podman pull docker.io/library/alpine
Pull twice and watch the log: first "outcome":"miss", then "outcome":"hit".
`, proxy)
}

// clientAddress is host:port as a client of this machine would write it. This machine's name is no better: in a
// container nobody else knows it.
func (a *App) clientAddress() string {
	addr := a.front.Addr().(*net.TCPAddr)
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(addr.Port))
}

// size is a number of bytes in nginx's units, as the settings take them.
func size(n int64) string {
	for _, unit := range []struct {
		bytes int64
		name  string
	}{{1 << 30, "g"}, {1 << 20, "m"}, {1 << 10, "k"}} {
		if n >= unit.bytes && n%unit.bytes == 0 {
			return strconv.FormatInt(n/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10)
}
