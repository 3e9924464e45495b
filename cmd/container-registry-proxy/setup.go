package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/setup"
)

// setting is the command line of "setup".
type setting struct {
	client, proxy, mode, noProxy, root string
	scheme                             string // of the proxy, which is its host and port alone once it was checked
	undo, byAddress                    bool
	every                              time.Duration
}

func setupCommand(p process) *cobra.Command {
	var s setting
	c := &cobra.Command{
		Use:   "setup CLIENT",
		Short: "Print the script that has a client pull images through the proxy",
		Long: `Print the script that has a client of this machine pull images through the proxy, as the proxy itself serves it at
/setup/CLIENT: read it, then give it to a root shell. CLIENT is one of ` + strings.Join(setup.Clients(), ", ") + `.
The proxy is that of --proxy, else that of HTTPS_PROXY, else the one of this machine's configuration. Only --undo needs
none. With --root the script is run and not printed; that is how a node is set up from a container.`,
		Example: `  container-registry-proxy setup docker --proxy http://192.168.66.72:3128 | sudo sh
  container-registry-proxy setup containerd --proxy http://192.168.66.72:3128 --mode mirror | sudo sh
  container-registry-proxy setup docker --undo | sudo sh`,
		ValidArgs: setup.Clients(),
		Args:      oneClient,
		RunE: func(cmd *cobra.Command, args []string) error {
			s.client = args[0]
			if err := s.check(p.environ); err != nil {
				return &usageError{err}
			}
			if s.root != "" {
				return s.runEvery(cmd.Context(), p.stdout, p.stderr)
			}
			script, err := s.script(cmd.Context())
			if err != nil {
				return fmt.Errorf("setup %s: %w", s.client, err)
			}
			_, err = io.WriteString(p.stdout, script)
			return err
		},
	}
	flags := c.Flags()
	flags.StringVar(&s.proxy, "proxy", "", "the proxy's `URL` as this client knows it, such as http://192.168.66.72:3128")
	flags.StringVar(&s.mode, "mode", "", "the `mode`: intercept, which is the default, or mirror, for which no authority has to be trusted")
	flags.StringVar(&s.noProxy, "no-proxy", "", "`addresses`, networks and domains that the client reaches without the proxy, such as 10.0.0.0/8,.svc")
	flags.BoolVar(&s.undo, "undo", false, "print the script that sets the client back")
	flags.BoolVar(&s.byAddress, "by-address", false, "write the proxy's IP address, for a machine that cannot resolve its name")
	flags.StringVar(&s.root, "root", "", "run the script in this root `directory`, instead of printing it")
	flags.DurationVar(&s.every, "every", 0, "with --root: do it again after each `duration`, until a signal")
	return c
}

func oneClient(c *cobra.Command, args []string) error {
	if len(args) == 1 && slices.Contains(setup.Clients(), args[0]) {
		return nil
	}
	return &usageError{fmt.Errorf("%s: want one of %s", strings.Join(append([]string{c.Name()}, args...), " "), strings.Join(setup.Clients(), ", "))}
}

// check completes what was asked for, or says what is wrong with it.
func (s *setting) check(environ []string) error {
	if _, err := setup.NewOptions(s.mode, s.noProxy); err != nil {
		return err
	}
	if s.every < 0 || s.every > 0 && s.root == "" {
		return errors.New("--every: want a positive duration, such as 10m, together with --root")
	}
	if s.undo {
		return nil
	}
	if s.proxy == "" {
		local, err := config.Load(environ)
		if err != nil {
			return err
		}
		s.proxy = "http://" + proxyOf(environ, local.Listen)
	}
	u, err := parseProxy(s.proxy)
	if err != nil {
		return err
	}
	s.scheme, s.proxy = u.Scheme, u.Host
	return nil
}

// script is what the proxy serves; what undoes it needs no proxy.
func (s *setting) script(ctx context.Context) (string, error) {
	if s.undo {
		return setup.Undo(s.client)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	host := s.proxy
	if s.byAddress {
		var err error
		if host, err = s.resolved(ctx); err != nil {
			return "", err
		}
	}
	query := url.Values{}
	for name, value := range map[string]string{"mode": s.mode, "no_proxy": s.noProxy} {
		if value != "" {
			query.Set(name, value)
		}
	}
	u := url.URL{Scheme: s.scheme, Host: host, Path: "/setup/" + s.client, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Transport{}).RoundTrip(req) // not through a proxy: it may be this one
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
		return "", fmt.Errorf("%w: this machine does not trust the proxy's authority yet: want http:// in --proxy, and SETUP_ADDRESS=%s://%s on the proxy", err, s.scheme, host)
	}
	if err != nil {
		return "", fmt.Errorf("%w: the proxy that --proxy names has to run", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(body), "#!/bin/sh\n") {
		return "", fmt.Errorf("%s is not this proxy, or of another version: it says %s: %.200s", &u, resp.Status, body)
	}
	if s.byAddress && !strings.Contains(string(body), "://"+host+"/") {
		return "", fmt.Errorf("--by-address: the proxy has another address written than %s, that of its SETUP_ADDRESS: leave away the one or the other", host)
	}
	return string(body), nil
}

// resolved is the proxy with an IP address in the place of its name: the same each time, if it has several.
func (s *setting) resolved(ctx context.Context) (string, error) {
	u := url.URL{Host: s.proxy}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return "", err
	}
	least := addresses[0].Unmap()
	for _, a := range addresses {
		if a = a.Unmap(); a.Less(least) {
			least = a
		}
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[s.scheme]
	}
	if least == (netip.Addr{}) {
		return "", fmt.Errorf("%s has no address", u.Hostname())
	}
	return net.JoinHostPort(least.String(), port), nil
}
