package rows

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// profile measures ours again, until the profile that is taken meanwhile is there.
func (s *Stand) profile(ctx context.Context, name string, measure Measure) error {
	taken := make(chan error, 1)
	go func() { taken <- s.takeProfile(ctx, "profile?seconds=8", filepath.Join(s.cfg.Profiles, name+".pprof")) }() // the loop below takes its result
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

// profileMemory writes what ours holds at present to a file, for a row of memory.
func (s *Stand) profileMemory(ctx context.Context, column, name string) error {
	if s.cfg.Profiles == "" || column != Ours {
		return nil
	}
	file := filepath.Join(s.cfg.Profiles, name+"-heap")
	return errors.Join(s.takeProfile(ctx, "heap?debug=1", file+".txt"), s.takeProfile(ctx, "heap", file+".pprof"))
}

// takeProfile writes a profile to a file.
func (s *Stand) takeProfile(ctx context.Context, kind, name string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.ours.Admin+"/debug/pprof/"+kind, nil)
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
