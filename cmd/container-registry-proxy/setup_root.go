package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// runEvery runs the script in the root directory, again and again if that is asked for: nodes are replaced, the proxy
// gets another address, and a proxy that is away now comes back.
func (s *setting) runEvery(ctx context.Context, stdout, stderr io.Writer) error {
	for {
		err := s.runOnce(ctx, stdout, stderr)
		if s.every == 0 {
			return err
		}
		if err != nil && ctx.Err() == nil {
			fmt.Fprintln(stderr, "container-registry-proxy:", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(s.every):
		}
	}
}

func (s *setting) runOnce(ctx context.Context, stdout, stderr io.Writer) error {
	script, err := s.script(ctx)
	if err != nil {
		return fmt.Errorf("setup %s: %w", s.client, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "/bin/sh")
	shell.Dir = "/"
	shell.SysProcAttr = &syscall.SysProcAttr{Chroot: s.root}
	shell.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin", "HOME=/root"}
	shell.Stdin, shell.Stdout, shell.Stderr = strings.NewReader(script), stdout, stderr
	shell.WaitDelay = 5 * time.Second
	if err := shell.Run(); err != nil {
		return fmt.Errorf("setup %s in %s: %w", s.client, s.root, err)
	}
	return nil
}
