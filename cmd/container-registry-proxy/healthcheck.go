package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"container-registry-proxy/internal/config"
)

func healthcheckCommand(p process) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the proxy of this configuration whether it is well (for a container's HEALTHCHECK)",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(p.environ)
			if err != nil {
				return &usageError{err}
			}
			return checkHealth(cmd.Context(), cfg.Listen)
		},
	}
}

// checkHealth gets /healthz from a proxy that listens on this machine.
func checkHealth(ctx context.Context, listen string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/healthz", nil)
	if err != nil {
		return fmt.Errorf("healthcheck: %w", err)
	}
	resp, err := (&http.Transport{}).RoundTrip(req) // not through a proxy: it may be this one
	if err != nil {
		return fmt.Errorf("healthcheck %s: %w", listen, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what there is of it helps
		return fmt.Errorf("healthcheck %s: %s: %s", listen, resp.Status, reason)
	}
	return nil
}
