package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/doctor"
	"container-registry-proxy/internal/oci"
)

// errUnwell is what a script sees of findings that a person has read already.
var errUnwell = errors.New("doctor: what is marked fail has to be mended")

// anywhere is where the proxy may be, this machine included.
var anywhere = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

func doctorCommand(p process) *cobra.Command {
	var cfg doctor.Config
	var image string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say what keeps this machine from pulling images through the proxy",
		Long: `Say what keeps this machine from pulling images through the proxy, in a line for each thing that can be wrong.
Run it on a client, or beside the proxy, as root for all of it: only root may see what other users' daemons were told.
The proxy is that of --proxy, else that of HTTPS_PROXY, else the one of this machine's configuration.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			local, err := config.Load(p.environ)
			if err != nil {
				return &usageError{err}
			}
			if image != "" {
				if cfg.Image, err = oci.ParseReference(image); err != nil {
					return &usageError{fmt.Errorf("--image: %w", err)}
				}
			}
			if cfg.Proxy == "" {
				cfg.Proxy = proxyOf(p.environ, local.Listen)
			}
			if u, err := url.Parse(cfg.Proxy); err == nil && u.Host != "" {
				cfg.Proxy = u.Host // as "setup" takes it
			}
			if cfg.Admin == "" {
				cfg.Admin = local.AdminListen
			}
			cfg.Dial = dial.New(dial.Config{AllowedNetworks: anywhere}).DialContext
			if !doctor.Print(p.stdout, doctor.Examine(cmd.Context(), cfg)) {
				return errUnwell
			}
			return nil
		},
	}
	c.Flags().StringVar(&cfg.Proxy, "proxy", "", "the proxy's address for clients, `host:port` or its URL")
	c.Flags().StringVar(&cfg.Admin, "admin", "", "the operator's listener, `host:port`, where it can be reached")
	c.Flags().StringVar(&image, "image", "", "the `image` to ask a registry about (default docker.io/library/hello-world:latest)")
	return c
}

// proxyOf is the proxy that the environment names, or the one that listens here.
func proxyOf(environ []string, listen string) string {
	for _, entry := range environ {
		name, v, _ := strings.Cut(entry, "=")
		if u, err := url.Parse(v); strings.EqualFold(name, "HTTPS_PROXY") && err == nil && u.Host != "" {
			return u.Host
		}
	}
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}
