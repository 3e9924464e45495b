package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"container-registry-proxy/internal/app"
	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/demo"
)

func demoCommand(p process) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show in a few seconds what the proxy does, offline and leaving nothing behind",
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelError}))
			return demo.Run(cmd.Context(), demo.Config{
				Start: func(ctx context.Context, environ []string) (string, func() error, error) {
					return startProxy(ctx, environ, log)
				},
				Out: p.stdout, Bars: isTerminal(p.stdout),
			})
		},
	}
}

// startProxy starts a proxy that ends with ctx.
func startProxy(ctx context.Context, environ []string, log *slog.Logger) (address string, wait func() error, err error) {
	cfg, err := config.Load(environ)
	if err != nil {
		return "", nil, err
	}
	a, err := app.New(cfg, log)
	if err != nil {
		return "", nil, err
	}
	if err := a.Listen(); err != nil {
		return "", nil, errors.Join(err, a.Close(ctx))
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx) }() // wait takes its result
	return a.Addr().String(), func() error { return <-served }, nil
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
