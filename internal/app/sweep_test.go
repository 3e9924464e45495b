package app_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/app"
)

// A proxy that has just started serves first; then metadata is swept once a day, until the proxy ends.
func TestWhenMetadataIsSwept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		var swept atomic.Int64
		go func() { done <- app.NowAndThen(ctx, func() { swept.Add(1) }) }() // until the cancel below
		for _, step := range []struct {
			after time.Duration
			want  int64
		}{{59 * time.Minute, 0}, {2 * time.Minute, 1}, {23 * time.Hour, 1}, {2 * time.Hour, 2}, {24 * time.Hour, 3}} {
			time.Sleep(step.after)
			synctest.Wait()
			if got := swept.Load(); got != step.want {
				t.Errorf("after another %v: swept %d times, want %d", step.after, got, step.want)
			}
		}
		ended := errors.New("the proxy ends")
		cancel(ended)
		if err := <-done; !errors.Is(err, ended) {
			t.Errorf("ended with %v, want %v", err, ended)
		}
	})
}
