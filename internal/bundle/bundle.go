// Package bundle carries images over an air gap: it writes them into a tar file with an OCI image layout, which skopeo,
// crane and others read too, and reads such a file into a cache. Its invariant: nothing of a bundle reaches the cache
// that does not hash to the digest that names it.
package bundle

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/pull"
)

const (
	layoutFile = "oci-layout"
	indexFile  = "index.json"
	layout     = `{"imageLayoutVersion":"1.0.0"}`

	// refName is the whole reference, which tells what the image was pulled as; containerd has its own name for that.
	refName        = "org.opencontainers.image.ref.name"
	containerdName = "io.containerd.image.name"
)

// index is the layout's own: the images of the bundle.
type index struct {
	SchemaVersion int     `json:"schemaVersion"`
	MediaType     string  `json:"mediaType"`
	Manifests     []entry `json:"manifests"`
}

type entry struct {
	oci.Descriptor
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Export writes images into a tar file, each blob once. Watch, if it is not nil, is told of each blob before it comes.
func Export(ctx context.Context, src pull.Source, images []*pull.Image, to io.Writer, watch func(image *pull.Image, blob oci.Descriptor) io.Writer) error {
	w := &writer{Writer: tar.NewWriter(to), written: map[oci.Digest]bool{}}
	list := index{SchemaVersion: 2, MediaType: "application/vnd.oci.image.index.v1+json"}
	for _, image := range images {
		name := image.Reference.String()
		list.Manifests = append(list.Manifests, entry{image.Root, map[string]string{refName: name, containerdName: name}})
	}
	listed, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := errors.Join(w.small(layoutFile, []byte(layout)), w.small(indexFile, listed)); err != nil {
		return err
	}
	for _, image := range images {
		for _, m := range image.Manifests {
			if err := w.manifest(m); err != nil {
				return err
			}
		}
		for _, blob := range image.Blobs {
			progress := io.Discard
			if watch != nil {
				progress = watch(image, blob)
			}
			if w.written[blob.Digest] {
				continue
			}
			if err := w.blob(ctx, src, image.Reference, blob, progress); err != nil {
				return fmt.Errorf("%s: %w", image.Reference, err)
			}
		}
	}
	return w.Close()
}

type writer struct {
	*tar.Writer
	written map[oci.Digest]bool
}

func fileOf(d oci.Digest) string { return "blobs/" + d.Algorithm() + "/" + d.Hex() }

// begin writes the header of a file. All have the same time, so that the same images make the same bundle.
func (w *writer) begin(name string, size int64) error {
	return w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg, Format: tar.FormatPAX})
}

func (w *writer) small(name string, body []byte) error {
	if err := w.begin(name, int64(len(body))); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

func (w *writer) manifest(m pull.Manifest) error {
	if w.written[m.Digest] {
		return nil
	}
	w.written[m.Digest] = true
	return w.small(fileOf(m.Digest), m.Body)
}

func (w *writer) blob(ctx context.Context, src pull.Source, ref oci.Reference, blob oci.Descriptor, progress io.Writer) error {
	w.written[blob.Digest] = true
	if err := w.begin(fileOf(blob.Digest), blob.Size); err != nil {
		return err
	}
	return pull.Copy(ctx, src, ref, blob.Digest, io.MultiWriter(w, progress))
}
