// Package demo shows in a few seconds what the proxy does: a toy registry in this process, a proxy in front of it, and
// one generated image pulled twice through it, as a client would. Its invariant: it needs no network beyond loopback,
// touches nothing outside a temporary directory, and leaves nothing behind. The proxy it shows is the real one, started
// by the caller; the registry is a toy for this show and no registry for tests.
package demo

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Config says what is shown where; Start is needed, the rest may be zero.
type Config struct {
	// Start starts a proxy with these settings, which stops when ctx ends. It returns the address for clients and a
	// function that waits for the end.
	Start func(ctx context.Context, environ []string) (address string, wait func() error, err error)
	// Out gets the show.
	Out io.Writer
	// Bars draws progress bars; Out has to be a terminal.
	Bars bool
	// Layers are the sizes of the image's layers in bytes; none means a good 30 MiB.
	Layers []int64
	// Rate is what the toy registry sends per second and connection, in bytes; 0 means 6 MiB, a slow link.
	Rate int64
}

// Run gives the show. It ends with an error if the proxy did not do what it is for: a second pull that the registry
// notices is one.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Layers == nil {
		cfg.Layers = []int64{1 << 20, 3 << 20, 6 << 20, 9 << 20, 13 << 20}
	}
	if cfg.Rate == 0 {
		cfg.Rate = 6 << 20
	}
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	dir, err := os.MkdirTemp("", "container-registry-proxy-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return errors.Join(show(ctx, cfg, dir), os.RemoveAll(dir))
}

// show sets the stage in dir, pulls twice and clears the stage.
func show(ctx context.Context, cfg Config, dir string) error {
	img, err := newImage(cfg.Layers)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	toy, err := startRegistry(img, cfg.Rate)
	if err != nil {
		return fmt.Errorf("demo: toy registry: %w", err)
	}
	defer toy.close()
	running, stop := context.WithCancel(ctx)
	defer stop()
	environ, err := settings(dir, toy)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	address, wait, err := cfg.Start(running, environ)
	if err != nil {
		return fmt.Errorf("demo: proxy: %w", err)
	}
	fmt.Fprintf(cfg.Out, "A toy registry on %s: one image, %d layers, %s, over a link of %s/s a connection.\n"+
		"A proxy in front of it on %s, its cache empty.\n",
		toy.host, len(img.layers), amount(img.size()), amount(cfg.Rate), address)
	err = pullTwice(ctx, cfg, toy, img, address)
	stop()
	return errors.Join(err, wait())
}

// settings are those of a proxy for the toy registry, as a user would set them. Registries on loopback are out of reach
// unless ALLOWED_NETWORKS says otherwise.
func settings(dir string, toy *toyRegistry) ([]string, error) {
	roots := filepath.Join(dir, "toy-registry.crt")
	if err := os.WriteFile(roots, toy.certificate, 0o600); err != nil {
		return nil, err
	}
	return []string{
		"LISTEN=127.0.0.1:0",
		"ADMIN_LISTEN=127.0.0.1:0",
		"CACHE_DIRECTORY=" + filepath.Join(dir, "cache"),
		"CA_DIRECTORY=" + filepath.Join(dir, "ca"),
		"CACHE_MAX_SIZE=1g",
		"REGISTRIES=" + toy.host,
		"ALLOWED_NETWORKS=127.0.0.0/8",
		"UPSTREAM_CA_FILE=" + roots,
	}, nil
}

// pullTwice is what a newcomer should see.
func pullTwice(ctx context.Context, cfg Config, toy *toyRegistry, img *image, address string) error {
	c, err := newClient(ctx, address)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	var pulls []pull
	for n := 1; n <= 2; n++ {
		fmt.Fprintf(cfg.Out, "\npull %d of %s/%s:%s\n", n, toy.host, repository, tag)
		before, start := toy.sent.Load(), time.Now()
		layers, err := c.pull(ctx, toy.host, newProgress(cfg))
		if err != nil {
			return fmt.Errorf("demo: pull %d: %w", n, err)
		}
		pulls = append(pulls, pull{layers: layers, time: time.Since(start), fetched: toy.sent.Load() - before})
	}
	fmt.Fprintln(cfg.Out)
	table(cfg.Out, pulls)
	return verdict(pulls[1], toy, len(img.layers))
}

// verdict is an error if the second pull was not what a cache is for.
func verdict(second pull, toy *toyRegistry, layers int) error {
	for _, l := range second.layers {
		if l.outcome != "HIT" {
			return fmt.Errorf("demo: the second pull of layer %s was answered with %q, want HIT", l.digest, l.outcome)
		}
	}
	if n := toy.blobs.Load(); n != int64(layers)+1 { // and the image's configuration
		return fmt.Errorf("demo: the registry was asked for blobs %d times, want %d", n, layers+1)
	}
	return nil
}

// pool returns a set of trusted roots with the certificates of pem alone.
func pool(pem []byte) (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in what should be one")
	}
	return roots, nil
}
