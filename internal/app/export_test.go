package app

import (
	"io"
	"log/slog"

	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/dial"
)

// NewIn is New in an internet of the test's own.
func NewIn(resolver dial.Resolver, cfg *config.Config, log *slog.Logger) (*App, error) {
	return open(&App{cfg: cfg, log: log, resolver: resolver})
}

// NowAndThen is when metadata is swept.
var NowAndThen = nowAndThen

// NewLogger is the log that Run has.
func NewLogger(cfg *config.Config, w io.Writer) *slog.Logger { return newLogger(cfg, cfg.LogLevel, w) }
