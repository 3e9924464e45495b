package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"container-registry-proxy/internal/app"
	"container-registry-proxy/internal/bundle"
	"container-registry-proxy/internal/config"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/pull"
)

func exportCommand(p process) *cobra.Command {
	var i images
	var output string
	c := &cobra.Command{
		Use:   "export [flags] IMAGE... > bundle.tar",
		Short: "Write images into a tar file with an OCI image layout, through a running proxy",
		Long: `Write images into a tar file with an OCI image layout, for the import of a proxy that reaches no registry. What the
proxy has cached is not fetched again. skopeo and others read the file too: skopeo copy oci-archive:bundle.tar:IMAGE …`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := i.wanted(p, args)
			if err != nil {
				return err
			}
			out, done, err := outputTo(p, output)
			if err != nil {
				return err
			}
			var found []*pull.Image
			for _, ref := range w.refs {
				image, err := pull.Find(cmd.Context(), w.from, ref, w.platforms)
				if err != nil {
					return done(reachable(err))
				}
				found = append(found, image)
			}
			return done(export(cmd, p, w.from, found, out))
		},
	}
	i.flags(c)
	c.Flags().StringVar(&output, "output", "-", "the `file` to write, which must not be there yet; - is the standard output")
	return c
}

// export writes the images, and shows how it goes where that does not get into the file.
func export(cmd *cobra.Command, p process, src pull.Source, found []*pull.Image, out io.Writer) error {
	show := newBars(p.stderr, isTerminal(p.stderr))
	shown := map[*pull.Image]*bar{}
	err := bundle.Export(cmd.Context(), src, found, out, func(image *pull.Image, _ oci.Descriptor) io.Writer {
		if shown[image] == nil {
			shown[image] = show.add(image.Reference.String(), image.Size())
		}
		return shown[image]
	})
	for _, b := range shown {
		b.done(err)
	}
	show.wait()
	return err
}

// outputTo opens the file to write. Done closes it, and removes it where that has failed.
func outputTo(p process, path string) (out io.Writer, done func(error) error, err error) {
	if path == "-" {
		if isTerminal(p.stdout) {
			return nil, nil, &usageError{errors.New("a bundle is nothing for a terminal: want --output bundle.tar, or > bundle.tar")}
		}
		return p.stdout, func(err error) error { return err }, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, &usageError{fmt.Errorf("--output: %w", err)}
	}
	return f, func(err error) error {
		if err = errors.Join(err, f.Close()); err != nil {
			return errors.Join(err, os.Remove(path))
		}
		return nil
	}, nil
}

func importCommand(p process) *cobra.Command {
	return &cobra.Command{
		Use:   "import BUNDLE.tar",
		Short: "Read images of a tar file into the cache of a proxy that is not running",
		Long: `Read images of a tar file with an OCI image layout into the cache directory of this configuration (CACHE_DIRECTORY), while
no proxy runs on it; - is the standard input. Every client of the proxy may pull them then, as long as their registry cannot
be reached or shows them to everybody.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &usageError{errors.New("want one bundle, such as bundle.tar, or - for the standard input")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(p.environ)
			if err != nil {
				return err
			}
			in := io.ReadCloser(os.Stdin)
			if args[0] != "-" {
				if in, err = os.Open(args[0]); err != nil {
					return &usageError{err}
				}
				defer in.Close()
			}
			log := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			done, err := app.Import(cmd.Context(), cfg, log, in)
			if err != nil {
				err = fmt.Errorf("import %s: %w", args[0], err)
			}
			for _, ref := range done.Images {
				fmt.Fprintln(p.stdout, ref)
			}
			if err == nil {
				fmt.Fprintf(p.stdout, "images: %d, new blobs: %d of %.1f MiB\n", len(done.Images), done.Blobs, float64(done.Bytes)/(1<<20))
			}
			return err
		},
	}
}
