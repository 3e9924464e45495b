package rows

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"container-registry-proxy/bench/peer"
)

// profile measures ours again, until the profile that is taken meanwhile is there.
func (s *Stand) profile(ctx context.Context, name string, measure Measure) error {
	taken := make(chan error, 1)
	go func() {
		taken <- takeProfile(ctx, s.ours, "profile?seconds=8", filepath.Join(s.cfg.Profiles, name+".pprof"))
	}() // the loop below takes its result
	for {
		select {
		case err := <-taken:
			return err
		default:
			if _, err := measure(ctx, Ours); err != nil {
				<-taken
				return err
			}
		}
	}
}

// profileNow takes a profile of what one of ours does from now on, for a row of one round, and returns what came of it.
func (s *Stand) profileNow(ctx context.Context, ours *peer.Ours, name string) <-chan error {
	taken := make(chan error, 1)
	if s.cfg.Profiles == "" {
		taken <- nil
		return taken
	}
	go func() {
		taken <- takeProfile(ctx, ours, "profile?seconds=8", filepath.Join(s.cfg.Profiles, name+".pprof"))
	}() // the caller takes its result
	return taken
}

// profileMemory writes what ours holds at present to a file, for a row of memory.
func (s *Stand) profileMemory(ctx context.Context, column, name string) error {
	if s.cfg.Profiles == "" || column != Ours {
		return nil
	}
	file := filepath.Join(s.cfg.Profiles, name+"-heap")
	return errors.Join(takeProfile(ctx, s.ours, "heap?debug=1", file+".txt"), takeProfile(ctx, s.ours, "heap", file+".pprof"))
}

// takeProfile writes a profile of one of ours to a file.
func takeProfile(ctx context.Context, ours *peer.Ours, kind, name string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ours.Admin+"/debug/pprof/"+kind, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer resp.Body.Close()
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, resp.Body); err != nil {
		_ = f.Close()
		return fmt.Errorf("profile: %w", err)
	}
	return f.Close()
}
