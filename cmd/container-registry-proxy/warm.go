package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/pull"
)

// errNotWarm is what a script sees of failures that a person has read already.
var errNotWarm = errors.New("not all images could be pulled")

// images are those that a command is for, and how they are had.
type images struct {
	proxy     string
	file      string
	platforms []string
}

// flags adds those that the commands for images have in common.
func (i *images) flags(c *cobra.Command) {
	c.Flags().StringVar(&i.proxy, "proxy", "", "the proxy's address for clients, `host:port` or its URL (default: that of HTTPS_PROXY, else this machine's configuration)")
	c.Flags().StringVar(&i.file, "file", "", "a `file` with an image on each line, # beginning a comment; - is the standard input")
	c.Flags().StringSliceVar(&i.platforms, "platform", nil, "the `platform` of images with several, such as linux/arm64, or all; may be repeated (default: linux on this machine's architecture)")
}

// list parses the images of the arguments and of the file.
func (i *images) list(args []string) (refs []oci.Reference, err error) {
	names := args
	if i.file != "" {
		in := io.ReadCloser(os.Stdin)
		if i.file != "-" {
			if in, err = os.Open(i.file); err != nil {
				return nil, &usageError{fmt.Errorf("--file: %w", err)}
			}
			defer in.Close()
		}
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			line, _, _ := strings.Cut(lines.Text(), "#")
			names = append(names, strings.Fields(line)...)
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("--file: %w", err)
		}
	}
	var errs []error
	for _, name := range names {
		ref, err := oci.ParseReference(name)
		errs = append(errs, err)
		refs = append(refs, ref)
	}
	if len(names) == 0 {
		errs = append(errs, errors.New("no image is named: want some, such as docker.io/library/alpine:3.20, or --file"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, &usageError{err}
	}
	return refs, nil
}

// wanted is what a command has to do: images for platforms, from a proxy.
type wanted struct {
	refs      []oci.Reference
	platforms oci.Platforms
	from      *pull.Proxy
}

// wanted says what the arguments and the flags ask for.
func (i *images) wanted(p process, args []string) (w wanted, err error) {
	if w.refs, err = i.list(args); err != nil {
		return w, err
	}
	if w.platforms, err = oci.ParsePlatforms(i.platforms); err != nil {
		return w, &usageError{err}
	}
	if i.proxy == "" {
		local, err := config.Load(p.environ)
		if err != nil {
			return w, &usageError{err}
		}
		i.proxy = proxyOf(p.environ, local.Listen)
	} else if u, err := parseProxy(i.proxy); err != nil {
		return w, &usageError{err}
	} else {
		i.proxy = u.Host
	}
	w.from = pull.NewProxy(i.proxy, dial.New(dial.Config{AllowedNetworks: anywhere}).DialContext)
	return w, nil
}

func warmCommand(p process) *cobra.Command {
	var i images
	at := count(3)
	c := &cobra.Command{
		Use:   "warm IMAGE...",
		Short: "Pull images into the cache of a running proxy",
		Long: `Pull images into the cache of a running proxy, as a client does: what it has is not fetched again, and tags are
revalidated. The exit code is 0 if all of them are cached.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := i.wanted(p, args)
			if err != nil {
				return err
			}
			w.from.NoCache = true
			return warm(cmd.Context(), p, w, int(at))
		},
	}
	i.flags(c)
	c.Flags().Var(&at, "parallel", "how many images are pulled at one time")
	return c
}

// warm pulls images, some at a time, and says what became of each.
func warm(ctx context.Context, p process, w wanted, at int) error {
	show := newBars(p.stdout, isTerminal(p.stdout))
	failed := make([]error, len(w.refs))
	var g errgroup.Group
	g.SetLimit(at)
	for n, ref := range w.refs {
		g.Go(func() error {
			failed[n] = warmOne(ctx, w.from, ref, w.platforms, show)
			return nil
		})
	}
	_ = g.Wait() // each has its own error
	show.wait()
	bad := 0
	for _, err := range failed {
		if err != nil {
			bad++
			fmt.Fprintln(p.stderr, "container-registry-proxy:", reachable(err))
		}
	}
	if bad > 0 {
		return fmt.Errorf("%w: %d of %d failed", errNotWarm, bad, len(w.refs))
	}
	return nil
}

// reachable adds what helps to the error of a proxy that no connection can be made to.
func reachable(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return fmt.Errorf("%w: the proxy has to run there, or --proxy to name another", err)
	}
	return err
}

// layersAtOnce is how many blobs of an image are fetched at one time, as container clients do.
const layersAtOnce = 3

func warmOne(ctx context.Context, src pull.Source, ref oci.Reference, platforms oci.Platforms, show bars) error {
	image, err := pull.Find(ctx, src, ref, platforms)
	if err != nil {
		return err
	}
	bar := show.add(image.Reference.String(), image.Size())
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(layersAtOnce)
	for _, blob := range image.Blobs {
		g.Go(func() error { return pull.Copy(ctx, src, ref, blob.Digest, bar) })
	}
	err = g.Wait()
	bar.done(err)
	if err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	return nil
}
